"""Time INT8 with groups of channels, or with float channels, beside plain INT8 and FP32.

    python -m benchmarks.channel_groups [--rounds 15] [--batch 8] [--seq-len 128]

A BERT of 6 x 384 with random weights: they do not change the time. All configurations of an
engine are loaded together and run in turn. Writes ``benchmarks/results/channel_groups.json``
with the environment.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

import deploy
from deploy.hardware import hardware
from deploy.profiling.statistics import median_ms, speed_up
from deploy.sessions import Session
from export.checkpoint import Forward
from export.torch_export import export_module
from trueint8.artifacts import write_atomically

OUT = Path(__file__).parent / "results" / "channel_groups.json"
ENGINES = ("openvino", "onnxruntime")
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "2 groups": {"groups": 2},
    "4 groups": {"groups": 4},
    "8 float channels": {"float_channels": 8},
    "4 groups, 8 float channels": {"groups": 4, "float_channels": 8},
}
_SAMPLES = 3

Inputs = dict[str, np.ndarray]


def main() -> None:
    """Build, measure and write the results file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.channel_groups")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=128)
    options = parser.parse_args()
    shape = (options.batch, options.seq_len)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        bundles = _bundles(Path(folder), shape)
        for engine in ENGINES:
            rows += _measured(engine, bundles, _inputs(shape, 1), options.rounds)
    document = {
        "benchmark": "channel_groups",
        "kind": "MEASURED",
        "model": "BERT, 6 layers x 384, 12 heads, FFN 1536, random weights",
        "batch": options.batch,
        "sequence": options.seq_len,
        "rows": rows,
        "environment": hardware(),
    }
    write_atomically(OUT, json.dumps(document, indent=1) + "\n")


def _inputs(shape: tuple[int, int], seed: int) -> Inputs:
    ids = np.random.default_rng(seed).integers(1000, 30000, size=shape)
    return {"input_ids": ids, "attention_mask": np.ones(shape, np.int64)}


def _bundles(folder: Path, shape: tuple[int, int]) -> dict[str, Path]:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    model = Forward(BertModel(config, add_pooling_layer=False).eval()).eval()
    graph, data = folder / "model.onnx", folder / "data.npz"
    export_module(model, [_inputs(shape, 0)], graph)
    np.savez(data, allow_pickle=False, **_inputs(shape, 0))
    for name, settings in CASES.items():
        deploy.build(
            graph, calib_data=data, out=folder / name, engine=",".join(ENGINES), calib="minmax",
            **settings,
        )  # fmt: skip
    return {name: folder / name for name in CASES}


def _measured(
    engine: str, bundles: dict[str, Path], inputs: Inputs, rounds: int
) -> list[dict[str, Any]]:
    samples: dict[str, list[list[int]]] = {}
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(deploy.load(path, engine=engine))
            for name, path in bundles.items()
        }
        whole = deploy.load(bundles["plain"], engine=engine, graph="float", precision="fp32")
        sides["FP32"] = stack.enter_context(whole)
        for name, side in sides.items():
            samples[name] = []
            side.run(inputs)
        for _ in range(rounds):
            for name in random.sample(list(sides), len(sides)):
                samples[name].append([_timed(sides[name], inputs) for _ in range(_SAMPLES)])
    return [_row(engine, name, samples) for name in samples]


def _row(engine: str, name: str, samples: dict[str, list[list[int]]]) -> dict[str, Any]:
    ratio = speed_up(samples[name], samples["plain"])
    p50 = median_ms(samples[name])
    print(
        f"{engine:<12} {name:<28} {p50.value:7.2f} ms  {ratio.value:.3f} x plain INT8  "
        f"[{ratio.low:.3f}, {ratio.high:.3f}]",
        flush=True,
    )
    return {
        "engine": engine,
        "configuration": name,
        "p50_ms": p50.value,
        "p50_interval_ms": [p50.low, p50.high],
        "relative_latency": ratio.value,
        "interval": [ratio.low, ratio.high],
        "samples_ns": samples[name],
    }


def _timed(session: Session, inputs: Inputs) -> int:
    start = time.perf_counter_ns()
    session.run(inputs)
    return time.perf_counter_ns() - start


if __name__ == "__main__":
    main()
