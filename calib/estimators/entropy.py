"""The threshold whose integers keep most of the distribution's information."""

from __future__ import annotations

import numpy as np

from calib.kernels import divergences
from calib.schemes import INT8, Range, Scheme
from calib.stats import TensorStats
from trueint8.errors import ConfigError

BINS = 2048
"""Bins of equal width over |x|."""


def estimate(stats: TensorStats, scheme: Scheme = INT8) -> Range:
    """Return the threshold with the least KL(P‖Q), P being |x| clipped and Q the same quantized.

    |x| is taken on 2,048 bins of equal width, from the largest magnitude down; every number
    of bins from 2ᵇ⁻¹ up is tried. Asymmetric: the same threshold on either side, cut to the
    extremes.

    Args:
        stats: One tensor over all batches.
        scheme: At most 11 bits; symmetry.

    Returns:
        A range within that of ``minmax``.

    Raises:
        ConfigError: If the bins cannot hold the integers.

    References:
        Migacz 2017, "8-bit inference with TensorRT", GTC; Wu et al. 2020, arXiv:2004.09602.
    """
    levels = 2 ** (scheme.bits - 1)
    if levels > BINS // 2:
        raise ConfigError(
            f"entropy has {BINS} bins, too few for {scheme.bits} bits",
            fix="pass 11 bits or fewer, or another estimator",
        )
    if stats.absmax == 0.0:
        return Range(0.0, 0.0)
    kept = levels + int(np.argmin(divergences(linear_counts(stats), levels)))
    threshold = kept * stats.absmax / BINS
    if scheme.symmetric:
        return Range(-threshold, threshold)
    return scheme.covering(max(stats.minimum, -threshold), min(stats.maximum, threshold))


def linear_counts(stats: TensorStats) -> np.ndarray:
    """Return counts of |x| in 2,048 bins of equal width up to ``absmax``, (2048,) float64.

    Rare values are known exactly. The others are taken to be spread evenly within a bin of the
    statistics, which at the top of the range is a quarter to half as wide as one of these; what
    falls on either side of an edge is a whole number.
    """
    low, high, counts = stats.values()
    point = low == high
    found, _ = np.histogram(
        np.abs(low[point]),
        bins=BINS,
        range=(0.0, stats.absmax),
        weights=counts[point].astype(np.float64),
    )
    low, high, counts = low[~point], high[~point], counts[~point]
    if len(low):
        edges = np.linspace(-stats.absmax, stats.absmax, 2 * BINS + 1)
        ends = np.append(0.0, np.cumsum(counts, dtype=np.float64))
        below = np.interp(edges, _paired(low, high), _paired(ends[:-1], ends[1:]))
        spread = np.diff(np.rint(below))
        found += spread[BINS:] + spread[BINS - 1 :: -1]
    return found


def _paired(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a₀, b₀, a₁, b₁, …"""
    pairs: np.ndarray = np.stack([a, b], axis=1).ravel()
    return pairs
