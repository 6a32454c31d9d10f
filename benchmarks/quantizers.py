"""INT8 by our quantizer beside the peers', on the same engines in one run: accuracy and latency.

    python -m benchmarks.quantizers MODEL --calib-data DATA --eval-data DATA
        [--engine openvino,onnxruntime] [--rounds 12] [--modelopt-python PATH]

MODEL is an encoder that gives hidden states. Each quantizer takes its own default ranges. Each
graph runs in a process of its own, in turn and in random order, beside the engine's float
precisions. The cosine is of mean-pooled embeddings to the float graph's; neighbours is the share
of sequences whose nearest neighbour among the others stays the same. Peers that are not installed
are left out and named. Writes ``benchmarks/results/quantizers.json`` with the environment.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import deploy
from calib.quantizers import QUANTIZERS
from deploy.bundle import Bundle, open_bundle
from deploy.engines import ENGINES
from deploy.hardware import default_threads, hardware, package_versions
from deploy.profiling.evaluation import EvaluationSet
from deploy.profiling.measurement import ProfileRequest, evaluation_data
from deploy.profiling.statistics import median_ms, speed_up
from deploy.profiling.workers import WorkerProcess, time_interleaved
from deploy.sessions import Configuration, Engine, int8_configuration
from trueint8.artifacts import write_atomically
from trueint8.errors import BuildError, MissingDependency
from trueint8.progress import progress_for

OUT = Path(__file__).parent / "results" / "quantizers.json"
OURS = "trueint8"
_ROUND_MS = 300.0
_TIMEOUT_S = 600.0

Case = tuple[str, Path, Configuration]
"""Name, what to open, and how."""


def main() -> None:
    """Build, measure and write the results file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantizers")
    parser.add_argument("model")
    parser.add_argument("--calib-data", required=True)
    parser.add_argument("--eval-data", required=True, type=Path)
    parser.add_argument("--engine", default="openvino,onnxruntime")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--eval-samples", type=int, default=192)
    parser.add_argument("--modelopt-python")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for engine in options.engine.split(","):
            bundles = _bundles(options, Path(folder), engine, left_out)
            request = ProfileRequest(
                list(bundles.values()), options.eval_data, samples=options.eval_samples
            )
            data = evaluation_data(request, open_bundle(bundles[OURS]))
            rows += _measured(engine, bundles, data, options.rounds)
    document = {
        "benchmark": "quantizers",
        "kind": "MEASURED",
        "model": Path(options.model).name,
        "calibration": Path(options.calib_data).name,
        "evaluation": options.eval_data.name,
        "rows": rows,
        "left_out": left_out,
        "versions": package_versions(),
        "environment": hardware(),
    }
    write_atomically(OUT, json.dumps(document, indent=1) + "\n")


def _bundles(
    options: argparse.Namespace, folder: Path, engine: str, left_out: dict[str, str]
) -> dict[str, Path]:
    found = {}
    for name in QUANTIZERS.names():
        extra = {"modelopt_python": options.modelopt_python} if name == "modelopt" else {}
        out = folder / f"{engine}-{name}"
        try:
            deploy.build(
                options.model, calib_data=options.calib_data, out=out, engine=engine,
                quantizer=name, progress=progress_for(quiet=False), **extra,
            )  # fmt: skip
        except (MissingDependency, BuildError) as err:
            if name == OURS:
                raise
            left_out[f"{name} on {engine}"] = err.problem
            continue
        found[name] = out
    return found


def _measured(
    engine_name: str, bundles: dict[str, Path], data: EvaluationSet, rounds: int
) -> list[dict[str, Any]]:
    engine: Engine = ENGINES.load(engine_name)
    ours = open_bundle(bundles[OURS])
    cases: list[Case] = [(f"float {c.rest}", ours.float_graph, c) for c in engine.floats()]
    int8 = int8_configuration(engine)
    assert int8 is not None
    cases += [(name, path / "engine" / engine_name, int8) for name, path in bundles.items()]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder) / "data.npz"
        data.save(file)
        workers, warmups = {}, {}
        for name, path, how in cases:
            workers[name] = stack.enter_context(WorkerProcess(name, _TIMEOUT_S))
            workers[name].open(engine_name, path, how, ours.running(engine_name, default_threads()))
            warmups[name] = workers[name].ask("warm_up", data=str(file))["times_ns"]
        samples, _ = time_interleaved(
            workers, warmups, rounds=rounds, round_ms=_ROUND_MS, seed=0, advance=lambda _: None
        )
    floats = {n: median_ms(s).value for n, s in samples.items() if n.startswith("float")}
    fastest = min(floats, key=lambda name: floats[name])
    close = _closeness(engine_name, ours, bundles, data)
    return [_row(engine_name, name, samples, fastest, close.get(name, {})) for name in samples]


def _row(
    engine: str,
    name: str,
    samples: dict[str, list[list[int]]],
    fastest: str,
    close: dict[str, float],
) -> dict[str, Any]:
    p50 = median_ms(samples[name])
    to_ours, gain = (
        speed_up(samples[name], samples[OURS]),
        speed_up(samples[fastest], samples[name]),
    )
    shown = "  ".join(f"{key} {value:.4f}" for key, value in close.items())
    print(
        f"{engine:<12} {name:<22} {p50.value:8.2f} ms  {to_ours.value:.3f} x ours "
        f"[{to_ours.low:.3f}, {to_ours.high:.3f}]  {shown}",
        flush=True,
    )
    return {
        "engine": engine,
        "quantizer": name,
        "p50_ms": p50.value,
        "p50_interval_ms": [p50.low, p50.high],
        "time_over_ours": [to_ours.value, to_ours.low, to_ours.high],
        "speed_up_over_fastest_float": [gain.value, gain.low, gain.high],
        **close,
        "samples_ns": samples[name],
    }


def _closeness(
    engine: str, ours: Bundle, bundles: dict[str, Path], data: EvaluationSet
) -> dict[str, dict[str, float]]:
    with deploy.load(ours.path, engine=engine, graph="float", precision="fp32") as session:
        expected = _embeddings(session, data)
    found = {}
    for name, path in bundles.items():
        with deploy.load(path, engine=engine) as session:
            actual = _embeddings(session, data)
        cosines = (actual * expected).sum(axis=1)
        same = np.equal(_neighbours(actual), _neighbours(expected))
        found[name] = {
            "cosine": float(cosines.mean()),
            "least_cosine": float(cosines.min()),
            "neighbours": float(same.mean()),
        }
    return found


def _embeddings(session: Any, data: EvaluationSet) -> np.ndarray:
    """Return (N, C), mean over the tokens of each sequence, of length 1."""
    rows: list[np.ndarray] = []
    for batch in data.batches:
        hidden = next(iter(session.run(batch).values())).astype(np.float64)
        mask = batch["attention_mask"][..., None]
        rows.append((hidden * mask).sum(axis=1) / mask.sum(axis=1))
    vectors = np.concatenate(rows)
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _neighbours(vectors: np.ndarray) -> np.ndarray:
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -np.inf)
    nearest: np.ndarray = likeness.argmax(axis=1)
    return nearest


if __name__ == "__main__":
    main()
