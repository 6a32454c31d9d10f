"""What a row carries beside its figures: the audit, and the ranges of tensors."""

from __future__ import annotations

from pydantic import Field

from deploy.record import Record


class AuditEntry(Record):
    """One matmul, convolution or attention operator on the row's engine."""

    matmul: str
    weighted: bool
    macs: int
    executed: str = Field(
        description="int8, a float precision, fused, not found or refused; by the engine's word."
    )
    reason: str = Field(
        default="", description="Why not both operands carry Q/DQ; empty where they do."
    )
    kernel: str = Field(default="", description="The engine's word for what executes it.")
    why: str = Field(
        default="", description="Where it carries Q/DQ and is not executed in INT8: why."
    )


class TensorEntry(Record):
    """One calibrated activation: what INT8 covers of it, what that costs, how it is spread.

    All over the calibration data, of the float graph that Q/DQ went into. ``clipped`` and
    ``sqnr_db`` are SIMULATED, from the tensor's histogram.
    """

    tensor: str
    layers: list[str] = Field(description="Matmuls that read it, in the graph's order.")
    low: float = Field(description="Lower end of what INT8 covers.")
    high: float
    minimum: float
    maximum: float
    clipped: float = Field(description="Share of values outside, 0 to 1.")
    sqnr_db: float | None = Field(
        default=None,
        description="10·log₁₀(Σx² ÷ Σ(x − quantized x)²) at 8 bits; null where nothing is lost.",
    )
    kurtosis: float | None = Field(
        default=None, description="E(x − μ)⁴ ÷ σ⁴, 3 for a Gaussian; null for a constant."
    )
    beyond_6_sigma: float = Field(description="Share of values further from μ than 6 σ, 0 to 1.")
    channel_ratio: float | None = Field(
        default=None,
        description="Largest |x| of the widest channel ÷ that of the median channel; null where "
        "channels are not known.",
    )

    @property
    def threshold(self) -> float:
        """Largest magnitude that INT8 covers."""
        return max(-self.low, self.high)

    @property
    def absmax(self) -> float:
        """Infinity norm: largest magnitude that was seen."""
        return max(abs(self.minimum), abs(self.maximum))
