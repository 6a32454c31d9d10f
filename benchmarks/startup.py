"""Time ``deploy --help`` beside an empty Python, interleaved.

    python -m benchmarks.startup [--rounds 30]

Writes ``benchmarks/results/startup.json`` with the environment.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from deploy.hardware import hardware
from deploy.profiling.statistics import median_ms
from trueint8.artifacts import write_atomically

OUT = Path(__file__).parent / "results" / "startup.json"


def main() -> None:
    """Measure and write the results file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup")
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    home = Path(sys.executable).parent
    cases = {
        "deploy --help": [str(home / "deploy"), "--help"],
        "import deploy": [sys.executable, "-c", "import deploy"],
        "empty Python": [sys.executable, "-c", "pass"],
    }
    samples: dict[str, list[list[int]]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name in random.sample(list(cases), len(cases)):
            start = time.perf_counter_ns()
            subprocess.run(cases[name], stdout=subprocess.DEVNULL, check=True)
            samples[name].append([time.perf_counter_ns() - start])
    figures = {}
    for name, rounds_ns in samples.items():
        estimate = median_ms(rounds_ns)
        figures[name] = {"p50_ms": estimate.value, "interval_ms": [estimate.low, estimate.high]}
        print(f"{name:<14} {estimate.value:6.1f} ms  [{estimate.low:.1f}, {estimate.high:.1f}]")
    document = {
        "benchmark": "startup",
        "kind": "MEASURED",
        "figures": figures,
        "samples_ns": samples,
        "environment": hardware(),
    }
    write_atomically(OUT, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
