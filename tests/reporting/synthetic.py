"""SYNTHETIC rows: drawn from a seeded generator, no engine ever produced them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from deploy.ledger.record import PARTS, Interval, Ledger, Part, Peak, Probe, SpeedUp
from deploy.profiling.evidence import AuditEntry, TensorEntry
from deploy.profiling.results import (
    Accuracy,
    Block,
    Coverage,
    Latency,
    Overlap,
    Parity,
    Row,
    SequenceScores,
)
from tests.reporting.synthetic_resources import with_resources
from trueint8.kinds import Kind

Metric = Literal["loss", "perplexity", "accuracy", "cosine"]

ROUNDS = 12
SAMPLES_PER_ROUND = 20
ENVIRONMENT: dict[str, Any] = {
    "synthetic": "these figures were invented for a test",
    "hardware": {
        "cpu": "Synthetic CPU 9000 (invented)",
        "cores": 8,
        "isa": ["avx2", "avx512_vnni"],
    },
    "versions": {"trueint8": "0.1.0", "openvino": "2026.0", "onnxruntime": "1.30.0"},
    "threads": 4,
    "load": {"average_1m": 0.12, "before": True},
    "gpus": [],
}


def synthetic_latency(median_ms: float, seed: int, *, rounds: int = ROUNDS) -> Latency:
    """Return invented rounds around a median: round drift, noise, a right tail."""
    draw = np.random.default_rng(seed)
    drift = draw.normal(1, 0.006, size=(rounds, 1))
    noise = 1 + 0.01 * draw.standard_gamma(2, size=(rounds, SAMPLES_PER_ROUND))
    times = (median_ms * 1e6 * drift * noise).astype(int)
    return Latency(
        batch=1,
        sequence=128,
        threads=4,
        warmup_ns=[int(3e6 * median_ms)] * 5,
        rounds_ns=times.tolist(),
        blocks=[Block(others=0.01, stolen=0.0, load_average_1m=0.5)] * rounds,
    )


def synthetic_row(**changes: Any) -> Row:
    """Return one valid row; keyword arguments replace its fields."""
    fields: dict[str, Any] = {
        "session": "2026-01-15T09:30:00Z-4f1c",
        "time": "2026-01-15T09:30:00Z",
        "model": "tiny-gpt",
        "bundle": "tiny-gpt-clipped",
        "bundle_sha256": "9f" * 32,
        "attention": "clipped",
        "calibration": "percentile 99.99",
        "task": "text-generation",
        "data": "wikitext-2 test (synthetic)",
        "engine": "openvino",
        "graph": "float",
        "precision": "fp32",
        "rest": "fp32",
        "kind": Kind.MEASURED,
        "built_by": "deploy build tiny --int8 --calib-data 'a b.txt'",
        "measured_by": "deploy profile tiny-gpt-clipped --data eval.txt",
        "environment": ENVIRONMENT,
    }
    return Row(**{**fields, **changes})


def accuracy(metric: Metric, value: float) -> Accuracy:
    """Return one accuracy figure over an invented number of sequences."""
    return Accuracy(metric=metric, value=value, samples=64, positions=8128)


def scores(figures: list[Accuracy], seed: int = 0) -> SequenceScores | None:
    """Return invented scores of 64 sequences whose metric is that of the first figure.

    Sequences differ far more from each other than configurations do.
    """
    if not figures or figures[0].metric == "loss":
        return None
    metric, value = figures[0].metric, figures[0].value
    mean = float(np.log(value)) if metric == "perplexity" else value
    common = np.random.default_rng(77).normal(0, 0.1, 64)
    own = np.random.default_rng(seed).normal(0, 0.002, 64)
    spread = common + own
    sums = 127 * (mean + spread - spread.mean())
    return SequenceScores(metric=metric, sums=sums.tolist(), counts=[127] * 64)


def coverage() -> Coverage:
    """Return a coverage of 78.125 %, 24 of 25 weight matmuls."""
    return Coverage(
        int8_macs=25_000_000, total_macs=32_000_000, int8_matmuls=24, weight_matmuls=25, matmuls=33
    )


def audit() -> list[AuditEntry]:
    """Return 25 invented matmuls in four layers: the head in float, one refused, 23 in INT8."""
    weighted = [
        AuditEntry(
            matmul=f"decoder.layer.{layer}.{name}",
            weighted=True,
            macs=1_000_000,
            executed="int8",
            kernel="gemm_s8",
        )
        for layer in range(4)
        for name in ("query", "key", "value", "output", "up", "down")
    ]
    weighted[7] = weighted[7].model_copy(update={"executed": "fp32", "why": "no kernel takes it"})
    head = AuditEntry(
        matmul="lm_head",
        weighted=True,
        macs=7_000_000,
        executed="fp32",
        reason="the head stays in float",
        kernel="gemm_f32",
    )
    return [*weighted, head]


def tensors(count: int = 24, seed: int = 5) -> list[TensorEntry]:
    """Return invented activations: the fourth clipped, the sixth with outliers."""
    draw = np.random.default_rng(seed)
    found = []
    for index, size in enumerate(draw.uniform(1, 9, count)):
        clips = index == 3
        found.append(
            TensorEntry(
                tensor=f"activation_{index}",
                layers=[f"decoder.layer.{index // 6}.matmul_{index % 6}"],
                low=-size / (4 if clips else 1),
                high=size / (4 if clips else 1),
                minimum=-size,
                maximum=0.8 * size,
                clipped=0.0123 if clips else 0.0,
                sqnr_db=17.25 if clips else 35.0 + index,
                kurtosis=812.5 if index == 5 else 3.5,
                beyond_6_sigma=0.0004 if index == 5 else 0.0,
                channel_ratio=64.0 if index == 5 else 1.5,
            )
        )
    return found


def ledger(latency_ms: float) -> Ledger:
    """Return invented parts that explain all but 0.1 ms; one beats the probe by 0.05 ms."""
    ceiling_ms = latency_ms / 2
    rest = latency_ms - ceiling_ms - 0.1
    times = dict.fromkeys(PARTS, 0.0) | {"float matmuls": rest + 0.05, "pointwise": -0.05}
    return Ledger(
        engine="openvino",
        configuration="int8",
        precision="int8",
        shapes={"input_ids": [1, 128]},
        threads=4,
        latency=Interval(value=latency_ms, low=0.98 * latency_ms, high=1.02 * latency_ms),
        ceiling_ms=ceiling_ms,
        parts=[
            Part(
                name=name,
                ms=ms,
                kind=Kind.MEASURED,
                measured_ms=max(ms, 0.0) + 0.2,
                ceiling_ms=0.2,
                kernels=int(ms != 0),
                detail="gemm_f32 (1)" if ms else "",
            )
            for name, ms in times.items()
        ],
        unexplained_ms=0.1,
        profiled_ms=1.1 * latency_ms,
        macs=32_000_000,
        bytes=4_000_000,
        not_found=["lm_head"],
        speed_ups=[
            SpeedUp(source="bits", kind=Kind.PREDICTED, value=4.0),
            SpeedUp(source="measured", kind=Kind.MEASURED, value=2.35, low=2.2, high=2.5),
            SpeedUp(
                source="fastest float",
                kind=Kind.MEASURED,
                baseline="float-bf16",
                value=1.85,
                low=1.8,
                high=1.9,
            ),
        ],
        probe=Probe(
            peaks=[Peak(precision="int8", macs_per_s=4e11, engine="openvino")],
            bytes_per_s=2e10,
            copied_bytes=4_000_000,
            threads=4,
        ),
    )


def synthetic_group(
    seed: int, times_ms: dict[str, float], figures: dict[str, list[Accuracy]], **changes: Any
) -> list[Row]:
    """Return the rows of one model on one engine: floats, Q/DQ in FP32, INT8.

    Args:
        seed: Seed of the invented times.
        times_ms: Median by configuration: fp32, bf16, fp16, qdq, int8.
        figures: Accuracy by configuration.
        changes: Fields of every row.
    """
    rows = []
    for offset, (name, median_ms) in enumerate(times_ms.items()):
        quantized = name in ("qdq", "int8")
        precision = "fp32" if name == "qdq" else name
        rows.append(
            synthetic_row(
                **changes,
                graph="qdq" if quantized else "float",
                precision=precision,
                rest="fp32" if quantized else precision,
                kind=Kind.SIMULATED if name == "qdq" else Kind.MEASURED,
                latency=synthetic_latency(median_ms, seed + offset),
                accuracy=figures.get(name, []),
                scores=scores(figures.get(name, []), seed + offset),
                parity=Parity(graph=2e-6, tolerance=1e-4, engine=4e-6 if name == "fp32" else None),
                overlap=Overlap(shared=0, compared=512),
                floats=[f"float-{one}" for one in times_ms if one not in ("qdq", "int8")],
                coverage=coverage() if name == "int8" else None,
                audit=audit() if name == "int8" else None,
                tensors=tensors() if name == "int8" else None,
                ledger=ledger(median_ms) if name == "int8" else None,
                attentions=None if name == "qdq" else 6,
                fused_attentions=None if name == "qdq" else 6,
                peak_memory_mib=210.5 + offset,
                size_mib=12.25 if name == "int8" else 48.5,
            )
        )
    return rows


def synthetic_rows() -> list[Row]:
    """Return two models on up to three engines: faster, no evidence, slower, and BUILT."""
    quality = {
        "fp32": [accuracy("perplexity", 28.4123), accuracy("loss", 3.346822)],
        "bf16": [accuracy("perplexity", 28.4391)],
        "qdq": [accuracy("perplexity", 28.9017), accuracy("cosine", 0.998731)],
        "int8": [accuracy("perplexity", 28.9344), accuracy("cosine", 0.998412)],
    }
    labels = {
        "fp32": [accuracy("accuracy", 0.9134)],
        "qdq": [accuracy("accuracy", 0.9087)],
        "int8": [accuracy("accuracy", 0.9081)],
    }
    bert = {
        "model": "bert-mini",
        "bundle": "bert-mini-vanilla",
        "bundle_sha256": "0a" * 32,
        "attention": "vanilla",
        "calibration": "entropy",
        "task": "text-classification",
        "data": "sst2 validation (synthetic)",
    }
    built = synthetic_row(
        engine="tensorrt-rtx",
        graph="qdq",
        precision="int8",
        kind=Kind.BUILT,
        size_mib=13.5,
        coverage=coverage(),
        audit=audit(),
        tensors=tensors(),
        attentions=6,
        fused_attentions=6,
        note="compiled for compute capability 8.9",
    )
    first = {"fp32": 4.02, "bf16": 3.15, "qdq": 5.4, "int8": 1.71}
    return [
        *(with_resources(r, n) for n, r in enumerate(synthetic_group(100, first, quality))),
        *synthetic_group(
            200, {"fp32": 4.4, "qdq": 6.1, "int8": 4.4}, quality, engine="onnxruntime"
        ),
        built,
        *synthetic_group(
            300, {"fp32": 0.81, "bf16": 0.52, "qdq": 0.9, "int8": 0.71}, labels, **bert
        ),
    ]
