"""What each attention variant costs on each engine in each precision, beside vanilla in float.

    python -m benchmarks.attention_cost [VARIANT ...] [--rounds 40] [--batch 8] [--seq-len 128]

A BERT of 6 layers x 384 with random weights, which change neither time nor kernels. Each variant is
built for every engine that is installed. How many of its attentions are one kernel each, and what
share of its multiply-accumulates runs in INT8, is read from the engine. All configurations of a
variant are timed in the same rounds, in an order drawn anew, beside the float configuration that is
vanilla's fastest on that engine. A relative latency is the median over rounds of the variant's time
÷ that of the baseline in the same round, so that a machine whose speed drifts moves both; above 1
is slower. Engines that cannot run here are BUILT: no latency. Engines that run a checkpoint are
left out. Writes ``benchmarks/results/attention_cost.json`` after each variant, and goes on from it.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap
from transformers import BertConfig, BertModel

import deploy
from attention.attaching import attach
from attention.variants import VARIANTS
from benchmarks.attention_latency import Inputs
from deploy.audit import audit_engine, returned
from deploy.bundle import Bundle
from deploy.engines import ENGINES
from deploy.hardware import default_threads, hardware, package_versions
from deploy.kernels import fused_attentions
from deploy.sessions import Configuration, Engine, Session, int8_configuration
from export.checkpoint import Forward
from export.torch_export import export_module
from trueint8.artifacts import write_atomically
from trueint8.errors import ConfigError, MissingDependency
from trueint8.kinds import Kind

OUT = Path(__file__).parent / "results" / "attention_cost.json"
VANILLA = "vanilla"
_BASELINE = "baseline"
_WARM_UPS = 2
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
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=128)
    options = parser.parse_args()
    amount = Amount(options.batch, options.seq_len, options.rounds)
    rows = _measured(amount)
    names = dict.fromkeys([VANILLA, *(options.variants or VARIANTS.names())])
    missing = [n for n in names if n not in {row["variant"] for row in rows}]
    with tempfile.TemporaryDirectory() as scratch:
        vanilla = _built(VANILLA, Path(scratch), amount) if missing else None
        for name in missing:
            assert vanilla is not None
            bundle = vanilla if name == VANILLA else _built(name, Path(scratch), amount)
            for engine in bundle.manifest.engines:
                rows += _rows(name, engine, vanilla, bundle, amount, _fastest(rows, engine))
            _write(rows, amount)


def _measured(amount: Amount) -> list[dict[str, Any]]:
    """Return the rows of an earlier run of the same amount."""
    if not OUT.is_file():
        return []
    document = json.loads(OUT.read_text())
    if any(document[name] != value for name, value in asdict(amount).items()):
        raise ConfigError(f"{OUT} holds rows of another amount", fix="move it away")
    rows: list[dict[str, Any]] = document["rows"]
    return rows


def _fastest(rows: list[dict[str, Any]], engine: str) -> str | None:
    """Return the name of vanilla's fastest float configuration, where vanilla was timed."""
    floats = [
        row
        for row in rows
        if (row["variant"], row["engine"]) == (VANILLA, engine)
        and row["configuration"].startswith("float")
    ]
    best = min(floats, key=lambda row: float(row["p50_ms"]), default=None)
    return str(best["configuration"]) if best else None


def _write(rows: list[dict[str, Any]], amount: Amount) -> None:
    document = {
        "benchmark": "attention_cost",
        "model": "BERT, 6 layers x 384, 12 heads, random weights",
        **asdict(amount),
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
    np.savez(data, allow_pickle=False, **amount.inputs(_CALIBRATION, 1))
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
    variant: str,
    name: str,
    vanilla: Bundle,
    bundle: Bundle,
    amount: Amount,
    fastest: str | None,
) -> list[dict[str, Any]]:
    engine: Engine = ENGINES.load(name)
    int8 = int8_configuration(engine)
    audit = audit_engine(bundle, name)
    coverage = audit.coverage()
    pairs = [line.matmuls for line in audit.attentions]
    running = bundle.running(name, default_threads())
    configurations = [*engine.floats(), *([int8] if int8 is not None else [])]
    times = {}
    if engine.runs_here:
        times = _times(engine, vanilla, bundle, configurations, amount, fastest)
    rows = []
    for c in configurations:
        kernels = engine.audit(_path(bundle, name, c), c, running, returned(bundle, name))
        row: dict[str, Any] = {
            "variant": variant,
            "engine": name,
            "configuration": c.name,
            "kind": Kind.MEASURED if engine.runs_here else Kind.BUILT,
            "attentions": len(pairs),
            "fused_attentions": fused_attentions(kernels, pairs),
            "int8_share": coverage.share if c == int8 and coverage is not None else None,
            **times.get(c.name, {}),
        }
        print(*(f"{k}={v}" for k, v in row.items() if k != "samples_ns"), flush=True)
        rows.append(row)
    return rows


def _path(bundle: Bundle, engine: str, configuration: Configuration) -> Path:
    int8 = configuration.graph == "int8"
    return bundle.engine_folder(engine) if int8 else bundle.float_graph


def _times(
    engine: Engine,
    vanilla: Bundle,
    bundle: Bundle,
    configurations: Sequence[Configuration],
    amount: Amount,
    fastest: str | None,
) -> dict[str, dict[str, Any]]:
    """Return what each configuration takes, alone and relative to vanilla's fastest float.

    Args:
        engine: Runs both bundles.
        vanilla: Holds the baseline.
        bundle: Of the variant; where it is vanilla's, the fastest of these rounds is the baseline.
        configurations: To be timed.
        amount: Of one inference and of rounds.
        fastest: Vanilla's fastest float configuration, known from its own rounds.
    """
    floats = {c.name: c for c in configurations if c.graph == "float"}
    sides = {c.name: (bundle, c) for c in configurations}
    if fastest is not None:
        sides[_BASELINE] = (vanilla, floats[fastest])
    samples = _interleaved(engine, sides, amount)
    if fastest is None:
        fastest = min(floats, key=lambda name: float(np.median(samples[name])))
        samples[_BASELINE] = samples[fastest]
    found = {}
    for c in configurations:
        found[c.name] = {
            "baseline": f"{VANILLA} {fastest}",
            **_relative(samples[c.name], samples[_BASELINE]),
            "p50_ms": float(np.median(samples[c.name])) / 1e6,
            "baseline_p50_ms": float(np.median(samples[_BASELINE])) / 1e6,
            "samples_ns": {"baseline": samples[_BASELINE], "variant": samples[c.name]},
        }
    return found


def _relative(variant: Sequence[int], baseline: Sequence[int]) -> dict[str, Any]:
    """Return the median ratio of a round with its 95 % interval, from rounds drawn anew."""
    ratios = np.asarray(variant) / np.asarray(baseline)
    drawn = bootstrap((ratios,), np.median, method="percentile", rng=0)
    interval = drawn.confidence_interval
    return {
        "relative_latency": float(np.median(ratios)),
        "interval": [float(interval.low), float(interval.high)],
    }


def _interleaved(
    engine: Engine, sides: Mapping[str, tuple[Bundle, Configuration]], amount: Amount
) -> dict[str, list[int]]:
    """Return the nanoseconds of each round by side."""
    inputs, order = amount.inputs(amount.batch, 2), random.Random(0)
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for side, (owner, c) in sides.items():
            running = owner.running(engine.name, default_threads())
            opened = engine.open(_path(owner, engine.name, c), c, running)
            sessions[side] = stack.enter_context(opened)
            for _ in range(_WARM_UPS):
                opened.run(inputs)
        samples: dict[str, list[int]] = {side: [] for side in sessions}
        for _ in range(amount.rounds):
            for side in order.sample(list(sessions), len(sessions)):
                samples[side].append(_once(sessions[side], inputs))
    return samples


def _once(session: Session, inputs: Inputs) -> int:
    start = time.perf_counter_ns()
    session.run(inputs)
    return time.perf_counter_ns() - start


if __name__ == "__main__":
    main()
