"""What each attention variant costs on each engine in each precision, beside vanilla in FP32.

    python -m benchmarks.attention_cost [VARIANT ...] [--rounds 15] [--batch 8] [--seq-len 128]

A BERT of 6 layers x 384 with random weights, which change neither time nor kernels. Each variant is
built for every engine that is installed. Whether its attention is one kernel, and what share of
its multiply-accumulates runs in INT8, is read from the engine; latency is timed in rounds that
alternate with vanilla's FP32 graph on the same engine. Engines that cannot run here are BUILT: no
latency.
Writes ``benchmarks/results/attention_cost.json`` after each variant; those in it are left out.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

import deploy
from attention.attaching import attach
from attention.variants import VARIANTS
from benchmarks.attention_latency import Inputs
from deploy.audit import audit_engine
from deploy.bundle import Bundle
from deploy.engines import ENGINES
from deploy.hardware import default_threads, hardware, package_versions
from deploy.profiling.statistics import median_ms, speed_up
from deploy.sessions import Configuration, Engine, Session, int8_configuration
from export.checkpoint import Forward
from export.torch_export import export_module
from trueint8.artifacts import write_atomically
from trueint8.errors import MissingDependency
from trueint8.kinds import Kind

OUT = Path(__file__).parent / "results" / "attention_cost.json"
_SAMPLES = 3
_CALIBRATION = 32
_FEW: dict[str, Any] = {"smooth": "none", "rounding": "nearest"}
"""Neither changes which kernels run."""


@dataclass(frozen=True, slots=True)
class Amount:
    """What one inference takes, and how often it is timed."""

    batch: int
    sequence: int
    rounds: int

    def inputs(self, rows: int, seed: int) -> Inputs:
        """Return token ids and masks of ``rows`` sequences."""
        ids = np.random.default_rng(seed).integers(1000, 30000, (rows, self.sequence))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def main() -> None:
    """Measure what the results file lacks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention_cost")
    parser.add_argument("variants", nargs="*")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=128)
    options = parser.parse_args()
    amount = Amount(options.batch, options.seq_len, options.rounds)
    names = options.variants or ["vanilla", *(n for n in VARIANTS.names() if n != "vanilla")]
    rows: list[dict[str, Any]] = json.loads(OUT.read_text())["rows"] if OUT.is_file() else []
    missing = [n for n in names if n not in {row["variant"] for row in rows}]
    with tempfile.TemporaryDirectory() as scratch:
        vanilla = _built("vanilla", Path(scratch), amount) if missing else None
        for name in missing:
            assert vanilla is not None
            bundle = vanilla if name == "vanilla" else _built(name, Path(scratch), amount)
            rows += [row for engine in bundle.manifest.engines
                     for row in _rows(name, engine, vanilla, bundle, amount)]  # fmt: skip
            _write(rows, amount)


def _write(rows: list[dict[str, Any]], amount: Amount) -> None:
    document = {
        "benchmark": "attention_cost",
        "model": "BERT, 6 layers x 384, 12 heads, random weights",
        "batch": amount.batch,
        "sequence": amount.sequence,
        "rows": rows,
        "environment": {**hardware(), "versions": package_versions()},
    }
    write_atomically(OUT, json.dumps(document, indent=1) + "\n")


def _built(name: str, scratch: Path, amount: Amount) -> Bundle:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    model = attach(BertModel(config, add_pooling_layer=False), name).eval()
    graph, data = scratch / f"{name}.onnx", scratch / "calibration.npz"
    export_module(Forward(model).eval(), [amount.inputs(amount.batch, 0)], graph)
    np.savez(data, **amount.inputs(_CALIBRATION, 1))  # type: ignore[arg-type]
    return deploy.build(
        graph,
        calib_data=data,
        out=scratch / name,
        engine=",".join(_installed()),
        task="feature-extraction",
        **_FEW,
    )


def _installed() -> Iterator[str]:
    """Yield engines that take a graph and are installed."""
    for name in ENGINES.names():
        engine: Engine = ENGINES.load(name)
        try:
            engine.version()
        except MissingDependency:
            continue
        if not engine.runs_checkpoint:
            yield name


def _rows(
    variant: str, name: str, vanilla: Bundle, bundle: Bundle, amount: Amount
) -> Iterator[dict[str, Any]]:
    engine: Engine = ENGINES.load(name)
    int8 = int8_configuration(engine)
    coverage = audit_engine(bundle, name).coverage()
    for configuration in [*engine.floats(), *([int8] if int8 is not None else [])]:
        path = _path(bundle, name, configuration)
        running = bundle.running(name, default_threads())
        matmuls = {m.name: m.returns for m in bundle.manifest.matmuls}
        kernels = engine.audit(path, configuration, running, matmuls)
        quantized = configuration.graph == "int8"
        row: dict[str, Any] = {
            "variant": variant,
            "engine": name,
            "configuration": configuration.name,
            "kind": Kind.MEASURED if engine.runs_here else Kind.BUILT,
            "fused_attentions": sum(k.kind == "attention" for k in kernels),
            "int8_share": coverage.share if quantized and coverage is not None else 0.0,
        }
        if engine.runs_here:
            row |= _timed(engine, vanilla, bundle, configuration, amount)
        print(*(f"{k}={v}" for k, v in row.items() if k != "samples_ns"), flush=True)
        yield row


def _path(bundle: Bundle, engine: str, configuration: Configuration) -> Path:
    int8 = configuration.graph == "int8"
    return bundle.engine_folder(engine) if int8 else bundle.float_graph


def _timed(
    engine: Engine, vanilla: Bundle, bundle: Bundle, configuration: Configuration, amount: Amount
) -> dict[str, Any]:
    """Return latency relative to vanilla in FP32 on the same engine, in alternating rounds."""
    inputs = amount.inputs(amount.batch, 2)
    usual = Configuration("float", "fp32")
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for side, owner, how in (
            ("vanilla", vanilla, usual),
            ("variant", bundle, configuration),
        ):
            running = owner.running(engine.name, default_threads())
            opened = engine.open(_path(owner, engine.name, how), how, running)
            sessions[side] = stack.enter_context(opened)
            opened.run(inputs)
        samples: dict[str, list[list[int]]] = {side: [] for side in sessions}
        for _ in range(amount.rounds):
            for side in random.sample(list(sessions), len(sessions)):
                samples[side].append([_once(sessions[side], inputs) for _ in range(_SAMPLES)])
    ratio = speed_up(samples["variant"], samples["vanilla"])
    return {
        "relative_latency": ratio.value,
        "interval": [ratio.low, ratio.high],
        "vanilla_fp32_p50_ms": median_ms(samples["vanilla"]).value,
        "p50_ms": median_ms(samples["variant"]).value,
        "samples_ns": samples,
    }


def _once(session: Session, inputs: Inputs) -> int:
    start = time.perf_counter_ns()
    session.run(inputs)
    return time.perf_counter_ns() - start


if __name__ == "__main__":
    main()
