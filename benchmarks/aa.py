"""How often ``deploy compare`` calls one engine different from itself, and a planted slow-down.

    python -m benchmarks.aa [--times 40] [--planted 3] [--launches 10] [--work FOLDER]

The very command is run: ``deploy compare X X`` again and again, each with a seed of its own, and
``deploy compare X Y`` where Y is ONNX Runtime with 5 % more time per run, planted by
:mod:`benchmarks.slowed`. The model is the reference encoder of this repository. Goes on where it
was stopped. Writes ``benchmarks/results/aa.json`` with the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attention.stdlib_text import stdlib_documents
from benchmarks.slowed import SHARE
from deploy.demonstration import CHECKPOINTS
from deploy.hardware import hardware, package_versions
from deploy.profiling.comparison import log_ratio
from trueint8.artifacts import write_atomically

OUT = Path(__file__).parent / "results" / "aa.json"
HOME = Path(__file__).resolve().parents[1]
MOST_WRONG = 2
"""Of forty: what chance gives at 99 % confidence with a probability above 99 %."""


def main() -> None:
    """Run what is still to be run, and write the results file after each comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aa")
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument("--planted", type=int, default=3)
    parser.add_argument("--launches", type=int, default=10)
    parser.add_argument("--work", type=Path, help="Where the bundle is kept between runs.")
    options = parser.parse_args()
    effort = {"launches": options.launches}
    runs: list[dict[str, Any]] = json.loads(OUT.read_text())["runs"] if OUT.exists() else []
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        planted(work)
        bundle = _bundle(work)
        sides = {
            "A/A": (f"{bundle}@onnxruntime", f"{bundle}@onnxruntime", options.times),
            "planted": (f"{bundle}@onnxruntime", f"{bundle}@slowed", options.planted),
        }
        for what, (a, b, times) in sides.items():
            done = sum(run["what"] == what for run in runs)
            for seed in range(done, times):
                runs.append({"what": what, "seed": seed, **_compared(work, a, b, seed, effort)})
                _write(runs, effort)
                print(what, seed, runs[-1]["verdict"], f"{runs[-1]['seconds']:.0f} s", flush=True)


def planted(folder: Path) -> None:
    """Write what tells the registry that a distribution brings the engine ``slowed``."""
    told = folder / "slowed-0.dist-info"
    told.mkdir(exist_ok=True)
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: slowed\nVersion: 0\n")
    (told / "entry_points.txt").write_text(
        "[trueint8.engines]\nslowed = benchmarks.slowed:ENGINE\n"
    )


def _deploy(work: Path, *line: object) -> str:
    """Run the command with ``work`` among the places where distributions are looked for."""
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "deploy", *map(str, line)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HOME), str(work)])},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return ended.stdout


def _bundle(work: Path) -> Path:
    out, text = work / "encoder-int8", work / "train.txt"
    if not out.exists():
        lines = [t for d in stdlib_documents("train", max_bytes=100_000) for t in d.splitlines()]
        text.write_text("\n".join(t for t in lines if t.strip()) + "\n", "utf-8")
        _deploy(
            work, "build", CHECKPOINTS / "vanilla", "--int8", "--calib-data", text,
            "--engine", "onnxruntime,slowed", "-o", out,
        )  # fmt: skip
    return out


def _compared(work: Path, a: str, b: str, seed: int, effort: dict[str, Any]) -> dict[str, Any]:
    """Return what one comparison said, how long it took, and its ratios launch by launch."""
    flags = [x for k, v in effort.items() for x in (f"--{k.replace('_', '-')}", v)]
    started = datetime.now(UTC).isoformat(timespec="seconds")
    load, start = os.getloadavg()[0], time.monotonic()
    found = json.loads(_deploy(work, "compare", a, b, *flags, "--seed", seed, "--json", "--quiet"))
    samples = found.pop("samples_ns")
    ratios = {
        side: [log_ratio(x, y) for x, y in zip(samples["A"], samples[side], strict=True)]
        for side in ("B", "control")
    }
    kept = ("verdict", "ratio", "deciding", "control", "stable", "detectable", "launches", "advice")
    return {
        "started": started,
        "seconds": time.monotonic() - start,
        "load_average_1m_before": load,
        **{k: found[k] for k in kept},
        "log_ratios": {k: [round(x, 6) for x in v] for k, v in ratios.items()},
    }


def _write(runs: list[dict[str, Any]], effort: dict[str, Any]) -> None:
    same = [r["verdict"] for r in runs if r["what"] == "A/A"]
    slow = [r for r in runs if r["what"] == "planted"]
    document = {
        "benchmark": "aa",
        "kind": "MEASURED",
        "model": "reference text encoder, 6 x 128, INT8 on ONNX Runtime, golden inputs",
        "effort": effort,
        "same_engine": {
            "comparisons": len(same),
            "other_than_no_evidence": sum(v != "no evidence" for v in same),
            "expected_at_most": MOST_WRONG,
        },
        "planted": {
            "share": SHARE,
            "comparisons": len(slow),
            "called_slower": sum(r["verdict"] == "slower" for r in slow),
            "longest_s": max((r["seconds"] for r in slow), default=None),
        },
        "runs": runs,
        "versions": package_versions(),
        "environment": hardware(),
    }
    write_atomically(OUT, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
