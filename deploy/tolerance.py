"""How far an engine's outputs may be from those of its Q/DQ graph, in one place.

An engine passes on an output if any of these holds:

    SQNR(engine, simulated) ≥ SQNR(simulated, float) + 6 dB
    SQNR(engine, simulated) ≥ SQNR(simulated again, simulated) − 3 dB
    SQNR(engine, simulated) ≥ 60 dB
    top-1 agreement with the simulated output ≥ 99.5 %, over at least 200 positions

The second is for what no engine can do better: a difference in the last bit of a float, from
another order of summation or from what surrounds the matmuls in BF16 or FP16, moves values over
rounding thresholds of Q, layer after layer. ``simulated again`` is the same graph run in another
order, with its rest rounded to the engine's type. The third is what a float engine is held to:
where quantization costs next to nothing, single values that round the other way cost more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.collector import unpadded
from deploy.sessions import Precision

MARGIN_DB = 6.0
REPEAT_DB = 3.0
AGREEMENT = 0.995
LEAST_POSITIONS = 200
EQUAL_DB = 200.0
"""Said of outputs that are equal, or almost: an error below 1e-10 of the reference."""

FLOAT_DB: dict[Precision, float] = {"fp32": 60.0, "fp16": 30.0, "bf16": 25.0}
"""What a float engine must reach against the float outputs in FP32."""


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """One output of an engine beside its reference.

    Attributes:
        output: Its name.
        sqnr_db: MEASURED: of the engine to the reference, in dB.
        noise_db: SIMULATED: of the simulated output to the float one; None where the reference
            is the float output itself.
        repeat_db: SIMULATED: of a second simulation to the first; None as above.
        required_db: What ``sqnr_db`` must reach.
        agreement: MEASURED: share of positions with the same largest element; None where the
            output holds no logits.
        positions: How many positions the output has, padding aside.
    """

    output: str
    sqnr_db: float
    noise_db: float | None
    repeat_db: float | None
    required_db: float
    agreement: float | None
    positions: int

    @property
    def passed(self) -> bool:
        """Whether the output is within the tolerance."""
        counts = self.agreement is not None and self.positions >= LEAST_POSITIONS
        agrees = counts and self.agreement is not None and self.agreement >= AGREEMENT
        return self.sqnr_db >= self.required_db or agrees

    @property
    def margin_db(self) -> float:
        """By how much ``sqnr_db`` is above what is required."""
        return self.sqnr_db - self.required_db


def sqnr_db(reference: np.ndarray, actual: np.ndarray) -> float:
    """Return 10·log10(Σ reference² / Σ (actual − reference)²), within ± :data:`EQUAL_DB`.

    NaN or infinite values anywhere give the least.
    """
    wanted, given = reference.astype(np.float64), actual.astype(np.float64)
    if not np.isfinite(given).all():
        return -EQUAL_DB
    return decibels(float((wanted**2).sum()), float(((given - wanted) ** 2).sum()))


def decibels(signal: float, noise: float) -> float:
    """Return 10·log10(signal / noise) of two sums of squares, as :func:`sqnr_db` does."""
    if not np.isfinite(noise):
        return -EQUAL_DB
    if noise == 0:
        return EQUAL_DB
    ratio = 10 * np.log10(signal / noise) if signal else -EQUAL_DB
    return float(np.clip(ratio, -EQUAL_DB, EQUAL_DB))


def top1_agreement(reference: np.ndarray, actual: np.ndarray) -> float:
    """Return the share of positions whose largest element along the last axis is the same one."""
    return float((reference.argmax(-1) == actual.argmax(-1)).mean())


def check_quantized(
    output: str,
    actual: np.ndarray,
    simulated: np.ndarray,
    floating: np.ndarray,
    *,
    repeat_db: float,
    mask: np.ndarray | None = None,
    logits: bool = False,
) -> OutputCheck:
    """Compare an INT8 engine's output with its Q/DQ graph's in float arithmetic.

    Args:
        output: Its name.
        actual: Of the engine.
        simulated: Of its Q/DQ graph, of the same shape.
        floating: Of the float graph in FP32.
        repeat_db: How near a second simulation came to ``simulated``, in dB.
        mask: (B, T); positions where it is 0 do not count.
        logits: Whether the last axis holds scores of tokens or classes.
    """
    engine, reference, original = (_unpadded(a, mask) for a in (actual, simulated, floating))
    noise = sqnr_db(original, reference)
    return OutputCheck(
        output=output,
        sqnr_db=sqnr_db(reference, engine),
        noise_db=noise,
        repeat_db=repeat_db,
        required_db=min(noise + MARGIN_DB, repeat_db - REPEAT_DB, FLOAT_DB["fp32"]),
        agreement=top1_agreement(reference, engine) if logits else None,
        positions=reference[..., 0].size,
    )


def check_float(
    output: str,
    actual: np.ndarray,
    floating: np.ndarray,
    precision: Precision,
    *,
    mask: np.ndarray | None = None,
    logits: bool = False,
) -> OutputCheck:
    """Compare a float engine's output with the float graph's in FP32; arguments as above."""
    engine, reference = _unpadded(actual, mask), _unpadded(floating, mask)
    return OutputCheck(
        output=output,
        sqnr_db=sqnr_db(reference, engine),
        noise_db=None,
        repeat_db=None,
        required_db=FLOAT_DB[precision],
        agreement=top1_agreement(reference, engine) if logits else None,
        positions=reference[..., 0].size,
    )


def _unpadded(values: np.ndarray, mask: np.ndarray | None) -> Any:
    return np.atleast_1d(unpadded(values, mask))
