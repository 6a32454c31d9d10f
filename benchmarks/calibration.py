"""Time and memory of one calibration pass with every estimator, beside ONNX Runtime's.

    python -m benchmarks.calibration [--rounds 7] [--modelopt-python PATH]

A 6-layer, 384-wide encoder with random weights on random tokens, 8 x 128 per batch. Each case
runs in a process of its own, in turn and in random order; its time leaves out imports, which
load compiled code too, and holds everything else. ``plain`` runs the float graph on the same data
and keeps nothing. Processor time is that of all threads, and steadier where others share the
machine. Model Optimizer's calibrators need the interpreter of the environment that
calib/quantizers/constraints-modelopt.txt describes. Writes
``benchmarks/results/calibration.json`` with the environment.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from calib.quantizers.modelopt import write_batches
from deploy.hardware import hardware
from deploy.profiling.statistics import median_ms, speed_up
from trueint8.artifacts import write_atomically

OUT = Path(__file__).parent / "results" / "calibration.json"
_MANY = 256
_FEW = 16


def main() -> None:
    """Measure, or, in a process of its own, run one case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--modelopt-python", type=Path)
    parser.add_argument("--case", nargs=3, metavar=("NAME", "GRAPH", "BATCHES"))
    options = parser.parse_args()
    if options.case:
        print(json.dumps(_run(options.case[0], Path(options.case[1]), int(options.case[2]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.onnx"
        _export(graph)
        document = _measured(graph, options.rounds, options.modelopt_python)
    write_atomically(OUT, json.dumps(document, indent=1) + "\n")


def _measured(graph: Path, rounds: int, modelopt: Path | None) -> dict[str, Any]:
    names = [*CASES, *(MODELOPT if modelopt else ())]
    _in_process("trueint8", graph, 1)  # compiles the kernels
    samples: dict[str, list[list[int]]] = {name: [] for name in names}
    cpu_ns: dict[str, list[int]] = {name: [] for name in names}
    memory: dict[str, int] = {}
    for _ in range(rounds):
        for name in random.sample(names, len(names)):
            seen = _in_process(name, graph, _FEW, modelopt)
            samples[name].append([seen["ns"]])
            cpu_ns[name].append(seen["cpu_ns"])
            memory[name] = max(memory.get(name, 0), seen["peak_kib"])
    long = _in_process("trueint8", graph, _MANY)
    figures = {}
    for name, taken in samples.items():
        ratio, p50 = speed_up(taken, samples["plain"]), median_ms(taken)
        cpu = float(np.median(cpu_ns[name]) / np.median(cpu_ns["plain"]))
        figures[name] = {
            "relative_time": ratio.value,
            "interval": [ratio.low, ratio.high],
            "relative_cpu_time": cpu,
            "p50_ms": p50.value,
            "peak_mib": memory[name] / 1024,
        }
        print(
            f"{name:<24} {ratio.value:6.2f} x plain  [{ratio.low:.2f}, {ratio.high:.2f}]"
            f"  {p50.value:8.0f} ms  processor {cpu:5.2f} x  peak {memory[name] / 1024:6.0f} MiB"
        )
    grows = long["peak_kib"] / memory["trueint8"]
    print(f"trueint8, {_MANY} batches: peak {long['peak_kib'] / 1024:.0f} MiB, x {grows:.3f}")
    return {
        "benchmark": "calibration",
        "kind": "MEASURED",
        "model": "encoder, 6 layers x 384, random weights, FP32, 16 batches of 8 x 128 tokens",
        "left_out": [] if modelopt else list(MODELOPT),
        "figures": figures,
        "peak_mib_of_256_batches": long["peak_kib"] / 1024,
        "samples_ns": samples,
        "processor_ns": cpu_ns,
        "environment": hardware(),
    }


def _export(graph: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel

    from export.checkpoint import Forward
    from export.torch_export import export_module

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    model = Forward(BertModel(config, add_pooling_layer=False).eval())
    export_module(model.eval(), [next(_batches(1))], graph)


def _batches(count: int) -> Iterator[dict[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    for _ in range(count):
        ids = draw.integers(1000, 30000, size=(8, 128))
        yield {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _in_process(
    name: str, graph: Path, batches: int, modelopt: Path | None = None
) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.calibration", "--case", name]
    command += [str(graph), str(batches)]
    if name in MODELOPT:
        data = graph.with_name(f"{batches}.npz")
        if not data.exists():
            write_batches(data, list(_batches(batches)))
        script = Path(__file__).with_name("modelopt_calibrator.py")
        command = [str(modelopt), "-I", str(script), str(graph), str(data), MODELOPT[name]]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seen: dict[str, int] = json.loads(ended.stdout.splitlines()[-1])
    return seen


def _run(name: str, graph: Path, count: int) -> dict[str, int]:
    importlib.import_module("onnxruntime")
    prepared = CASES[name](graph)
    batches = list(_batches(count))
    with tempfile.TemporaryDirectory() as scratch:
        start, start_cpu = time.perf_counter_ns(), time.process_time_ns()
        prepared(batches, Path(scratch))
        taken, cpu = time.perf_counter_ns() - start, time.process_time_ns() - start_cpu
    return {"ns": taken, "cpu_ns": cpu, "peak_kib": _peak_kib()}


def _peak_kib() -> int:
    """Return this process's largest resident set; getrusage would count the parent's too."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


Batches = list[dict[str, np.ndarray]]
Prepared = Callable[[Batches, Path], None]


def _plain(graph: Path) -> Prepared:
    from export.reference import open_reference

    def run(batches: Batches, scratch: Path) -> None:
        with open_reference(graph) as infer:
            for batch in batches:
                infer(batch)

    return run


def _trueint8(graph: Path) -> Prepared:
    from calib.collector import observe
    from calib.estimators import ESTIMATORS
    from calib.placement import place_qdq
    from calib.ranges import Estimator, Ranges
    from export.matmuls import find_matmuls
    from export.onnx_file import load_clean
    from trueint8.progress import Silence

    def run(batches: Batches, scratch: Path) -> None:
        model = load_clean(graph)
        matmuls = find_matmuls(model, modules_named=True)
        tensors = place_qdq(matmuls, quantize_head=False).tensors
        seen = observe(model, tensors, batches, progress=Silence())
        for name in ESTIMATORS.names():
            Ranges("", Estimator(name), [], seen.stats).covered()

    return run


def _onnxruntime(method: str) -> Callable[[Path], Prepared]:
    def prepare(graph: Path) -> Prepared:
        from onnxruntime.quantization import CalibrationDataReader
        from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self, batches: Batches) -> None:
                self._left = iter(batches)

            def get_next(self) -> dict[str, np.ndarray] | None:
                return next(self._left, None)

        def run(batches: Batches, scratch: Path) -> None:
            calibrator = create_calibrator(
                str(graph),
                op_types_to_calibrate=["MatMul"],
                augmented_model_path=str(scratch / "augmented.onnx"),
                calibrate_method=getattr(CalibrationMethod, method),
            )
            calibrator.set_execution_providers(["CPUExecutionProvider"])
            calibrator.collect_data(Reader(batches))
            calibrator.compute_data()

        return run

    return prepare


CASES: dict[str, Callable[[Path], Prepared]] = {
    "plain": _plain,
    "trueint8": _trueint8,
    "onnxruntime MinMax": _onnxruntime("MinMax"),
    "onnxruntime Percentile": _onnxruntime("Percentile"),
    "onnxruntime Entropy": _onnxruntime("Entropy"),
}
MODELOPT = {"modelopt Max": "max", "modelopt Entropy": "entropy"}

if __name__ == "__main__":
    main()
