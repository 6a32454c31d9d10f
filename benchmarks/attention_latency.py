"""Time each exported attention variant beside vanilla, in FP32, on a model of BERT-base's size.

    python -m benchmarks.attention_latency [VARIANT ...] [--rounds 15] [--batch 1] [--seq-len 128]

Weights are random: they do not change the time. A variant and vanilla are loaded
together and run in turn, in ONNX Runtime and in OpenVINO. Writes
``benchmarks/results/attention_latency.json`` with the environment.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
from transformers import BertConfig, BertModel

from attention.attaching import attach
from attention.variants import VARIANTS
from deploy.hardware import hardware
from deploy.profiling.statistics import median_ms, speed_up
from export.checkpoint import Forward
from export.torch_export import export_module
from trueint8.artifacts import write_atomically

OUT = Path(__file__).parent / "results" / "attention_latency.json"
_SAMPLES = 3

Inputs = dict[str, np.ndarray]


def main() -> None:
    """Measure and write the results file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention_latency")
    parser.add_argument("variants", nargs="*")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seq-len", type=int, default=128)
    options = parser.parse_args()
    names = options.variants or [n for n in VARIANTS.names() if n != "vanilla"]
    shape = (options.batch, options.seq_len)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        vanilla = _exported("vanilla", Path(folder), shape)
        for name in names:
            path = _exported(name, Path(folder), shape)
            rows += _compared(name, vanilla, path, _inputs(shape), options.rounds)
            for file in path.parent.glob(f"{name}*"):
                file.unlink()
    document = {
        "benchmark": "attention_latency",
        "kind": "MEASURED",
        "model": "BERT-base size, 12 layers x 768, random weights, FP32",
        "batch": options.batch,
        "sequence": options.seq_len,
        "rows": rows,
        "environment": hardware(),
    }
    write_atomically(OUT, json.dumps(document, indent=1) + "\n")


def _inputs(shape: tuple[int, int]) -> Inputs:
    ids = np.random.default_rng(0).integers(1000, 30000, size=shape)
    return {"input_ids": ids, "attention_mask": np.ones(shape, np.int64)}


def _exported(name: str, folder: Path, shape: tuple[int, int]) -> Path:
    torch.manual_seed(0)
    model = attach(BertModel(BertConfig(), add_pooling_layer=False), name).eval()
    path = folder / f"{name}.onnx"
    export_module(Forward(model).eval(), [_inputs(shape)], path)
    return path


def _compared(
    name: str, vanilla: Path, variant: Path, inputs: Inputs, rounds: int
) -> list[dict[str, Any]]:
    rows = []
    for engine, opened in (("onnxruntime", _onnxruntime), ("openvino", _openvino)):
        sides = {"vanilla": opened(vanilla), "variant": opened(variant)}
        samples: dict[str, list[list[int]]] = {side: [] for side in sides}
        for run in sides.values():
            run(inputs)
        for _ in range(rounds):
            for side in random.sample(list(sides), len(sides)):
                samples[side].append([_timed(sides[side], inputs) for _ in range(_SAMPLES)])
        ratio = speed_up(samples["variant"], samples["vanilla"])
        rows.append(
            {
                "variant": name,
                "engine": engine,
                "relative_latency": ratio.value,
                "interval": [ratio.low, ratio.high],
                "vanilla_p50_ms": median_ms(samples["vanilla"]).value,
                "variant_p50_ms": median_ms(samples["variant"]).value,
                "samples_ns": samples,
            }
        )
        print(
            f"{name:<20} {engine:<12} {ratio.value:.3f} x vanilla  "
            f"[{ratio.low:.3f}, {ratio.high:.3f}]",
            flush=True,
        )
    return rows


def _timed(run: Callable[[Inputs], Any], inputs: Inputs) -> int:
    start = time.perf_counter_ns()
    run(inputs)
    return time.perf_counter_ns() - start


def _onnxruntime(path: Path) -> Callable[[Inputs], Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}
    return lambda inputs: session.run(None, {k: v for k, v in inputs.items() if k in wanted})


def _openvino(path: Path) -> Callable[[Inputs], Any]:
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", hints)
    wanted = {i.get_any_name() for i in compiled.inputs}
    return lambda inputs: compiled({k: v for k, v in inputs.items() if k in wanted})


if __name__ == "__main__":
    main()
