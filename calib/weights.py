"""Weights to integers: per channel or per tensor, with ranges by min-max, percentile or MSE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from calib.kernels import rounding_errors
from calib.schemes import INT8, QuantParams, Scheme, scale_from_span
from trueint8.errors import CalibrationError, ConfigError, UnknownName
from trueint8.registry import did_you_mean

ESTIMATORS = ("minmax", "percentile", "mse")
_SHARES = np.linspace(0.2, 1.0, 65)
"""Of the largest magnitude, tried first as thresholds for MSE."""

_ROUNDS = 2
_POINTS = 9


@dataclass(frozen=True, slots=True)
class WeightScheme:
    """How weights are quantized, always symmetrically.

    Attributes:
        estimator: One of ``ESTIMATORS``.
        per_channel: One scale per output channel instead of one for all.
        percentile: Percent of |w| that ``percentile`` covers, 0 < q <= 100.
        scheme: Bits.
        rounding: ``nearest``, or ``gptq``: against the errors of the channels rounded before,
            where activations are known (:mod:`calib.rounding`).

    Raises:
        UnknownName: If there is no such estimator.
        ConfigError: If the percentile or the scheme is out of range.
    """

    estimator: str = "minmax"
    per_channel: bool = True
    percentile: float = 99.99
    scheme: Scheme = INT8
    rounding: Literal["nearest", "gptq"] = "nearest"

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise UnknownName(
                f"no estimator of weights is called {self.estimator!r}",
                fix=f"{did_you_mean(self.estimator, ESTIMATORS)}"
                f"choose one of: {', '.join(ESTIMATORS)}",
            )
        if not 0 < self.percentile <= 100:
            raise ConfigError(
                f"percentile q={self.percentile:g} is out of range; expected 0 < q <= 100",
                fix="pass 99.99",
            )
        if not self.scheme.symmetric:
            raise ConfigError("weights are symmetric", fix="pass Scheme(bits)")


def quantize_weight(
    weight: np.ndarray, axis: int, how: WeightScheme | None = None, *, name: str = "weight"
) -> tuple[np.ndarray, QuantParams]:
    """Quantize a weight, to the nearest integers.

    Args:
        weight: float32, at least two axes.
        axis: The output-channel axis.
        how: Estimator and granularity; min-max per channel unless given.
        name: For the message.

    Returns:
        Integers of the same shape, int8 up to 8 bits and int16 beyond; scales
        (weight.shape[axis],) per channel and () per tensor.

    Raises:
        CalibrationError: If a value is NaN or infinite.

    References:
        MSE: Choukroun et al. 2019, arXiv:1902.06822.
    """
    how = how or WeightScheme()
    finite = np.isfinite(weight)
    if not finite.all():
        raise CalibrationError(
            f"{name!r} holds {np.count_nonzero(~finite)} NaN or infinite values",
            fix="pass a checkpoint whose weights are finite",
        )
    channels = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    rows = channels if how.per_channel else channels.reshape(1, -1)
    levels = how.scheme.levels
    scale = scale_from_span(_thresholds(rows, how), levels)
    shape = [1] * weight.ndim
    shape[axis] = -1
    steps = weight / scale.reshape(shape)
    kind = np.int8 if how.scheme.bits <= 8 else np.int16
    integers = np.clip(np.rint(steps), -levels, levels).astype(kind)
    return integers, QuantParams(scale if how.per_channel else scale.reshape(()))


def _thresholds(rows: np.ndarray, how: WeightScheme) -> np.ndarray:
    """Return (N,) float64, the magnitude that the largest integer stands for in each of N rows."""
    magnitudes = np.abs(rows)
    largest: np.ndarray = magnitudes.max(axis=1).astype(np.float64)
    if how.estimator == "minmax":
        return largest
    if how.estimator == "percentile":
        found: np.ndarray = np.percentile(magnitudes, how.percentile, axis=1)
        return found.astype(np.float64)
    return _least_error(np.ascontiguousarray(magnitudes, np.float32), largest, how.scheme.levels)


def _least_error(magnitudes: np.ndarray, largest: np.ndarray, levels: int) -> np.ndarray:
    """Return the thresholds of least squared error, on ever finer grids around the best."""
    best, least = largest.copy(), rounding_errors(magnitudes, largest / levels, levels)
    shares, width = _SHARES, _SHARES[1] - _SHARES[0]
    centre = np.zeros_like(largest)
    for _ in range(1 + _ROUNDS):
        for share in shares:
            tried = np.clip(centre + share * largest, 0.0, largest)
            errors = rounding_errors(magnitudes, tried / levels, levels)
            better = errors < least
            best, least = np.where(better, tried, best), np.where(better, errors, least)
        shares = np.linspace(-width, width, _POINTS)
        width, centre = shares[1] - shares[0], best.copy()
    return best
