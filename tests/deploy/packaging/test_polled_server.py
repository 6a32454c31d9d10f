"""A version is added while the genuine tritonserver polls the repository and answers requests."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import Bundle
from deploy.golden import read_golden
from tests.deploy.packaging.tritonserver import Server, Start
from tests.deploy.running import run_here
from trueint8.artifacts import sha256_file

pytestmark = [
    pytest.mark.triton,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

POLLING = ("--model-control-mode=poll", "--repository-poll-secs=1")
SEEN_WITHIN_S = 60.0


class Trickle(threading.Thread):
    """Asks a model and its ensemble in turn, one request at a time, until it is told to end."""

    def __init__(self, server: Server, inputs: dict[str, np.ndarray], output: str) -> None:
        super().__init__()
        self._server, self._inputs, self._output = server, inputs, output
        self._over = threading.Event()
        self.versions: list[str] = []
        self.answers: dict[str, np.ndarray] = {}
        self.failures: list[str] = []

    def run(self) -> None:
        import tritonclient.http as http

        def item(name: str, array: np.ndarray, datatype: str) -> http.InferInput:
            made = http.InferInput(name, list(array.shape), datatype)
            made.set_data_from_numpy(array)
            return made

        tensors = [item(name, array, "INT64") for name, array in self._inputs.items()]
        text = [item("text", np.array([[b"It rained."]], object), "BYTES")]
        with http.InferenceServerClient(self._server.urls[0].removeprefix("http://")) as client:
            while not self._over.is_set():
                try:
                    answer = client.infer("m", tensors)
                    client.infer("m-text", text)
                except Exception as err:  # whatever it is, a request failed
                    self.failures.append(f"after {self.versions[-1:]}: {err}")
                    continue
                version = answer.get_response()["model_version"]
                self.versions.append(version)
                self.answers[version] = np.array(answer.as_numpy(self._output))
                time.sleep(0.01)

    def wait_for(self, version: str) -> None:
        end = time.monotonic() + SEEN_WITHIN_S
        while time.monotonic() < end and version not in self.versions and not self.failures:
            time.sleep(0.1)

    def end(self) -> None:
        self._over.set()
        self.join()


def _hashes(folder: Path) -> dict[str, str]:
    return {str(p): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_version_added_while_the_server_polls_fails_no_request(
    start: Start, encoder: Bundle, tmp_path: Path
) -> None:
    """Float answers and INT8 answers tell which version really answered."""
    out = tmp_path / "repo"
    words = (encoder.path, "--engine", "onnxruntime", "--name", "m", "-o", out)
    assert run_here("package", *words).code == 0
    first = _hashes(out / "m" / "1") | _hashes(out / "m-text" / "1")
    golden = read_golden(encoder.path / "golden.safetensors")
    inputs = {name: array[:1] for name, array in golden.inputs.items()}
    (output,) = golden.floats
    with start(out, *POLLING) as server:
        trickle = Trickle(server, inputs, output)
        trickle.start()
        try:
            trickle.wait_for("1")
            run_here("package", *words, "--version", 1).refused(2, "has a version 1")
            ended = run_here("package", *words, "--version", 2, "--graph", "float")
            assert ended.code == 0, ended.err
            trickle.wait_for("2")
            time.sleep(3)  # three more polls: nothing may come back
        finally:
            trickle.end()
        assert not trickle.failures, trickle.failures[0]
        told = json.loads(server.get("/v2/models/m"))
        assert told["versions"] == ["2"]
        ended = run_here("verify", out, "--url", server.urls[0], "--quiet")
        assert ended.code == 0, ended.err
    assert sorted(set(trickle.versions)) == ["1", "2"]
    assert trickle.versions == sorted(trickle.versions), "the old version came back"
    wanted = golden.floats[output][:1]
    np.testing.assert_allclose(trickle.answers["2"], wanted, atol=1e-4)
    assert np.abs(trickle.answers["1"] - wanted).max() > 1e-3, "it was INT8"
    assert _hashes(out / "m" / "1") | _hashes(out / "m-text" / "1") == first
