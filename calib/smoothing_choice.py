"""The smoothing of each activation that costs its matmuls the least error.

The error of Y = X·W in INT8 is told from the statistics, without running anything:

    E‖ΔY‖² = Σ_c min((Δ·s_c)²/12, σ_c²)·‖W_c‖²  +  tr(ΔWᵀ·Σ·ΔW)

Δ is the step of the smoothed activation, from the extremes of its channels; s_c a channel's scale
and σ_c² its variance, beyond which rounding cannot err; Σ the covariance of the channels; ΔW the
error of W, rounded to the nearest integers at the scale it has after smoothing. The mean of the
error is left out: biases make up for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib.smoothing import Smoothing, channel_factors
from calib.stats import TensorStats
from calib.weights import WeightScheme, quantize_weight

ALPHAS = tuple(n / 10 for n in range(3, 10))
"""Up to 0.9: beyond, a channel that was quiet in calibration is clipped when it is not."""

WORTH = 0.8
"""Share of the error without smoothing that must not be exceeded, or nothing is smoothed."""

BATCHES = 4
"""Whose tokens are enough for the covariance that this choice needs."""


def choose_smoothing(
    stats: TensorStats, covariance: np.ndarray, weights: Sequence[np.ndarray], how: WeightScheme
) -> Smoothing | None:
    """Return the best of shift and scale over its exponents, or None where it gains little.

    Args:
        stats: Of X, with extremes per channel.
        covariance: Of X's channels, (C, C).
        weights: (C, N) of every matmul that reads X.
        how: How they will be quantized.
    """
    candidates = [Smoothing("shift-scale", alpha) for alpha in ALPHAS]
    errors = [predicted_error(stats, covariance, weights, c, how) for c in candidates]
    least = min(errors)
    if least > WORTH * predicted_error(stats, covariance, weights, None, how):
        return None
    return candidates[errors.index(least)]


def predicted_error(
    stats: TensorStats,
    covariance: np.ndarray,
    weights: Sequence[np.ndarray],
    smoothing: Smoothing | None,
    how: WeightScheme,
) -> float:
    """Return E‖ΔY‖² per token, all matmuls together (PREDICTED).

    Args:
        stats: As of :func:`choose_smoothing`.
        covariance: The same.
        weights: The same.
        smoothing: None for X as it is.
        how: As of :func:`choose_smoothing`.
    """
    low, high = stats.channel_minimum, stats.channel_maximum
    assert low is not None and high is not None
    scale, shift = np.ones(len(low)), np.zeros(len(low))
    if smoothing is not None:
        scale, shift = channel_factors(stats, weights, smoothing) or (scale, shift)
    step = float((np.maximum(high - shift, shift - low) / scale).max()) / 127
    variance = np.minimum((step * scale) ** 2 / 12, np.diag(covariance))
    total = 0.0
    for weight in weights:
        smoothed = (weight * scale[:, None]).astype(np.float32)
        integers, params = quantize_weight(smoothed, 1, how)
        off = (integers * params.scale.astype(np.float64) - smoothed) / scale[:, None]
        total += float(variance @ (weight.astype(np.float64) ** 2).sum(axis=1))
        total += float((off * (covariance @ off)).sum())
    return total
