"""Where the time between the hardware's ceiling and the latency goes, on an encoder.

    python -m benchmarks.ledger [MODEL ...] [--calib-data FILE] [--rounds 15] [--bundle DIR ...]

Builds each MODEL, the reference encoder unless told otherwise, for OpenVINO and ONNX Runtime, and
accounts for every configuration at 8 x 128 tokens. A last line per configuration says whether what
is left without a name stays below 15 % of the latency. Writes ``benchmarks/results/ledger.json``
with the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import deploy
from attention.stdlib_text import stdlib_documents
from deploy.bundle import Bundle, open_bundle
from deploy.hardware import hardware, package_versions
from deploy.ledger.accounting import LedgerRequest, account
from deploy.ledger.text import ledger_lines
from trueint8.artifacts import write_atomically
from trueint8.progress import Silence

HOME = Path(__file__).parent
OUT = HOME / "results" / "ledger.json"
ENCODER = HOME.parent / "attention" / "reference" / "text-encoder" / "vanilla"
LARGEST_UNEXPLAINED = 0.15


def main() -> None:
    """Build, account, print, and write the results file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger")
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--calib-data", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--bundle", action="append", type=Path, default=[], help="built before")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    models = options.models or ([] if options.bundle else [ENCODER])
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        bundles = [open_bundle(path) for path in options.bundle]
        for index, model in enumerate(models):
            out = Path(folder) / str(index)
            data = options.calib_data or _texts(Path(folder) / "texts.txt")
            bundles.append(
                deploy.build(model, calib_data=data, out=out, engine="openvino,onnxruntime")
            )
        for bundle in bundles:
            rows += _accounted(bundle, options.rounds)
    document = {
        "benchmark": "ledger",
        "kind": "MEASURED, but for ceilings and predicted speed-ups: PREDICTED",
        "rows": rows,
        "largest_unexplained_allowed": LARGEST_UNEXPLAINED,
        "load_average_1m_before": load,
        "environment": {**hardware(), "versions": package_versions()},
    }
    write_atomically(OUT, json.dumps(document, indent=1) + "\n")


def _texts(path: Path) -> Path:
    """Write the text the reference encoders were trained on, and return where."""
    path.write_text("\n".join(stdlib_documents("train", max_bytes=100_000)), "utf-8")
    return path


def _accounted(bundle: Bundle, rounds: int) -> list[dict[str, Any]]:
    rows = []
    for ledgers in account(LedgerRequest(bundle, rounds=rounds), Silence()):
        print(f"\n{bundle.manifest.model.name}", *ledger_lines(ledgers), sep="\n", flush=True)
        for ledger in ledgers:
            share = ledger.unexplained
            held = abs(share) < LARGEST_UNEXPLAINED
            print(
                f"{ledger.engine} {ledger.configuration}: unexplained {share:.1%}, "
                f"{'below' if held else 'NOT below'} {LARGEST_UNEXPLAINED:.0%}"
            )
            plain = ledger.model_dump(mode="json")
            rows.append({"model": bundle.manifest.model.name, "unexplained": share, **plain})
    return rows


if __name__ == "__main__":
    main()
