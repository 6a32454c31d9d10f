"""BF16, FP32 and INT8 behind ``deploy serve``, and the same bundle without a server.

    python -m benchmarks.served MODEL --calib-data DATA --eval-data DATA
        [--engine openvino] [--seq-len 128] [--p99-ms 150] [--work FOLDER]

The very commands are run: ``build``, ``profile``, ``serve`` three times, and ``load`` with the
servers in turn, the others against BF16. Clients, servers and engines share the machine's
processors. Writes ``benchmarks/results/served.json`` with the environment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deploy.hardware import hardware, package_versions
from trueint8.artifacts import write_atomically

OUT = Path(__file__).parent / "results" / "served.json"
_DEPLOY = [sys.executable, "-P", "-m", "deploy"]
_SERVERS = (
    ("--graph", "float", "--precision", "bf16"),
    ("--graph", "float", "--precision", "fp32"),
    ("--graph", "int8"),
)


def main() -> None:
    """Build, measure and write the results file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.served")
    parser.add_argument("model")
    parser.add_argument("--calib-data", required=True)
    parser.add_argument("--eval-data", required=True)
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--p99-ms", type=float, default=150.0)
    parser.add_argument("--work", type=Path, help="Where the bundle is kept between runs.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        bundle, results, out = work / "encoder-int8", work / "results.jsonl", work / "load.jsonl"
        if not bundle.exists():
            _deploy(
                "build", options.model, "--int8", "--calib-data", options.calib_data,
                "--engine", options.engine, "--seq-len", options.seq_len, "-o", bundle,
            )  # fmt: skip
        _deploy(
            "profile", bundle, "--engine", options.engine, "--data", options.eval_data,
            "--batch-size", 1, "--seq-len", options.seq_len, "-o", results, "--force",
        )  # fmt: skip
        with ExitStack() as stack:
            urls = [stack.enter_context(_served(bundle, *flags)) for flags in _SERVERS]
            figures = _deploy(
                "load", *urls, "--results", results, "--seq-len", options.seq_len,
                "--p99-ms", options.p99_ms, "-o", out, "--force", "--json",
            )  # fmt: skip
    document = {
        "benchmark": "served",
        "kind": "MEASURED",
        "model": Path(options.model).name,
        "engine": options.engine,
        "sequence": options.seq_len,
        "figures": json.loads(figures),
        "versions": package_versions(),
        "environment": hardware(),
    }
    write_atomically(OUT, json.dumps(document, indent=1) + "\n")


def _deploy(*line: Any) -> str:
    ended = subprocess.run([*_DEPLOY, *map(str, line)], stdout=subprocess.PIPE, text=True)
    if ended.returncode:
        sys.exit(f"deploy {line[0]} ended with {ended.returncode}")
    return ended.stdout


@contextlib.contextmanager
def _served(bundle: Path, *flags: str) -> Iterator[str]:
    """Serve one configuration of a bundle until the end, and yield its URL once it is ready."""
    command = [*_DEPLOY, "serve", str(bundle), *flags, "--port", "0", "--no-text"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        said = server.stdout.readline().split()
        if not said:
            sys.exit(f"deploy serve ended with {server.wait()}")
        yield said[-1]
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
