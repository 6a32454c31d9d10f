"""What a ledger says of one configuration of one engine, as it is stored."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from deploy.record import Record
from trueint8.kinds import Kind

PartName = Literal[
    "float matmuls", "matmuls below peak", "unfused attention", "fused attention", "quantize",
    "reformat", "pointwise", "normalization", "other operators", "dispatch",
]  # fmt: skip
"""In the order in which they are told."""

PARTS: tuple[PartName, ...] = get_args(PartName)

PeakPrecision = Literal["fp32", "bf16", "fp16", "int8"]

BASELINE = "float-fp32"

SpeedUpSource = Literal[
    "bits", "macs", "bandwidth", "ceiling", "simulated", "measured", "fastest float"
]


class Interval(Record):
    """A median with its 95 % interval, in ms."""

    value: float
    low: float
    high: float


class Peak(Record):
    """The fastest large matmul in a precision on this machine. MEASURED."""

    precision: PeakPrecision
    macs_per_s: float
    engine: str = Field(description="That reached it: peaks are the machine's, not an engine's.")


class Probe(Record):
    """What the machine was measured to offer, with the threads of the ledger. MEASURED."""

    peaks: list[Peak] = Field(description="One per precision that an engine here has.")
    bytes_per_s: float = Field(description="Read and written by copies.")
    copied_bytes: int = Field(
        description="Size of what was copied: that of the graph's weights and activations, so "
        "that the rate is of the caches or the memory that would hold them."
    )
    threads: int


class Part(Record):
    """Time between the ceiling and the latency that has a name; ms = measured − ceiling.

    A negative part means kernels that beat the probe.
    """

    name: PartName
    ms: float
    kind: Kind = Field(description="Of what was timed: MEASURED. Its ceiling is PREDICTED.")
    measured_ms: float = Field(description="What was timed, per run.")
    ceiling_ms: float = Field(description="That part of the ceiling which these kernels hold.")
    kernels: int
    detail: str = Field(description="What takes most of it, such as 'CumSum 3.10 ms (4)'.")


class SpeedUp(Record):
    """One configuration against a float one on the same engine; above 1 is faster."""

    source: SpeedUpSource
    kind: Kind
    baseline: str = Field(
        default=BASELINE,
        description="FP32, so that all sources are held against the same; but of `fastest float`, "
        "MEASURED and of `int8` only, the fastest float configuration where that is another.",
    )
    value: float
    low: float | None = Field(default=None, description="Of the 95 % interval, where timed.")
    high: float | None = None


class Ledger(Record):
    """latency.value = ceiling_ms + the sum of parts' ms + unexplained_ms."""

    engine: str
    configuration: str = Field(description="Such as float-fp32, float-bf16, int8.")
    precision: PeakPrecision = Field(description="That the ceiling takes every matmul to run in.")
    shapes: dict[str, list[int]] = Field(description="Of the inputs.")
    threads: int
    latency: Interval = Field(description="MEASURED, without profiling.")
    ceiling_ms: float = Field(
        description="PREDICTED: over the matmuls, the sum of max(MACs ÷ peak, bytes ÷ bandwidth)."
    )
    parts: list[Part] = Field(description="All of PARTS, in their order.")
    unexplained_ms: float = Field(description="What is left. It has no cause.")
    profiled_ms: float = Field(
        description="MEASURED: median of the calls in which kernels were timed, interleaved with "
        "the others; above `latency` by what profiling costs."
    )
    macs: int
    bytes: int = Field(description="Operands and results of the matmuls, in `precision`.")
    not_found: list[str] = Field(
        description="Matmuls that no kernel names: neither in the ceiling nor in a part of theirs."
    )
    speed_ups: list[SpeedUp]
    probe: Probe

    @property
    def unexplained(self) -> float:
        """Share of the latency that has no name; negative where the parts exceed it."""
        return self.unexplained_ms / self.latency.value
