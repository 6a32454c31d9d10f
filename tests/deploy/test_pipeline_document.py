"""The programs in docs/pipeline.md, run as they stand there."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import Bundle
from tests.deploy.checkpoints import prose
from tests.deploy.running import run_here
from tests.deploy.serving.asking import Client, Reply
from tests.deploy.studying import until

pytest.importorskip("uvicorn")
pytest.importorskip("tokenizers")

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "pipeline.md").read_text("utf-8")


def answers(port: int) -> bool:
    try:
        with closing(Client(port)) as client:
            return client.get("/openapi.json").status == 200
    except ConnectionRefusedError:
        return False


def classify(port: int, text: str) -> Reply:
    with closing(Client(port)) as client:
        return client.ask("POST", "/classify", json.dumps({"text": text}))


def test_the_application_answers_many_threads_and_ends_in_order(
    classifier: Bundle, tmp_path: Path
) -> None:
    (program,) = re.findall(r"```python\n(# app\.py.*?)```", DOCUMENT, re.S)
    (tmp_path / "app.py").write_text(program, "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{tmp_path}:{ROOT}"
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "error"],
        env={**os.environ, "BUNDLE": str(classifier.path), "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    texts = prose(32, 9)

    def ask(text: str) -> list[float]:
        reply = classify(port, text)
        assert reply.status == 200, reply.body
        return list(reply.json["scores"])

    try:
        until(lambda: answers(port), process)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(ask, texts))
        assert classify(port, "").status == 422
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    (tmp_path / "in.txt").write_text("\n".join(texts), "utf-8")
    ended = run_here("run", classifier.path, tmp_path / "in.txt", "-o", tmp_path / "o", "--quiet")
    assert ended.code == 0, ended.err
    lines = (tmp_path / "o").read_text("utf-8").splitlines()
    expected = [list(json.loads(line)["scores"].values()) for line in lines]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_document_names_options_that_exist() -> None:
    for command in ("run", "load", "serve", "report"):
        told = run_here(command, "--help").out
        lines = re.findall(rf"^deploy {command} .*$", DOCUMENT, re.M)
        assert lines
        for flag in re.findall(r"--[a-z0-9-]+", " ".join(lines)):
            assert flag in told, (command, flag)
