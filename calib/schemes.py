"""Bits and symmetry to scales and zero points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trueint8.errors import CalibrationError, ConfigError

FEWEST_BITS, MOST_BITS = 2, 16


@dataclass(frozen=True, slots=True)
class Range:
    """The values that integers shall cover, low <= 0 <= high, in the tensor's unit."""

    low: float
    high: float

    @property
    def amax(self) -> float:
        """Largest magnitude covered."""
        return max(-self.low, self.high)


@dataclass(frozen=True, slots=True)
class Scheme:
    """How many bits, and whether the range is centred on zero.

    Symmetric integers are −(2ᵇ⁻¹ − 1) … 2ᵇ⁻¹ − 1 with zero point 0; asymmetric ones
    0 … 2ᵇ − 1 with the zero point that stands for 0.

    Raises:
        ConfigError: If ``bits`` is not 2 to 16.
    """

    bits: int = 8
    symmetric: bool = True

    def __post_init__(self) -> None:
        if not FEWEST_BITS <= self.bits <= MOST_BITS:
            raise ConfigError(
                f"bits={self.bits} is out of range; expected {FEWEST_BITS} to {MOST_BITS}",
                fix="pass bits=8",
            )

    @property
    def levels(self) -> int:
        """Number of steps in the range that a scale divides."""
        return (1 << (self.bits - self.symmetric)) - 1

    def covering(self, low: float, high: float) -> Range:
        """Return the least range of this scheme that holds low, 0 and high."""
        low, high = min(low, 0.0), max(high, 0.0)
        return Range(-max(-low, high), max(-low, high)) if self.symmetric else Range(low, high)


INT8 = Scheme()


@dataclass(frozen=True, slots=True)
class QuantParams:
    """x ≈ scale · (q − zero_point).

    ``scale`` is float32 > 0, () for per-tensor and (N,) for per-channel; ``zero_point``
    counts from the scheme's smallest integer, and is 0 where the scheme is symmetric.
    """

    scale: np.ndarray
    zero_point: int = 0


def params_of_range(tensor: str, covered: Range, scheme: Scheme = INT8) -> QuantParams:
    """Return the per-tensor scale and zero point for a range; an all-zero tensor gets scale 1.

    Args:
        tensor: For the message.
        covered: What an estimator chose.
        scheme: Bits and symmetry.

    Raises:
        CalibrationError: If the range is not finite, or does not hold 0.
    """
    low, high = covered.low, covered.high
    if not (np.isfinite([low, high]).all() and low <= 0 <= high):
        raise CalibrationError(
            f"the range of {tensor!r} is {low} to {high}, which is no usable threshold",
            fix="calibrate on more or other data",
        )
    span = covered.amax if scheme.symmetric else high - low
    scale = scale_from_span(np.float64(span), scheme.levels)
    zero = 0 if scheme.symmetric else int(np.clip(np.rint(-low / scale), 0, scheme.levels))
    return QuantParams(scale, zero)


def scale_from_span(span: np.ndarray | np.float64, levels: int) -> np.ndarray:
    """Return span / levels in float32; 1 where that is no normal number."""
    scale = np.asarray(span / levels, dtype=np.float32)
    floor = np.finfo(np.float32).tiny
    return np.where(scale >= floor, scale, np.float32(1.0)).astype(np.float32)
