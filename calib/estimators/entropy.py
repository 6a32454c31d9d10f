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
    found = divergences(linear_counts(stats), levels)
    threshold = (levels + int(np.argmin(found))) * stats.absmax / BINS
    if scheme.symmetric:
        return Range(-threshold, threshold)
    return scheme.covering(max(stats.minimum, -threshold), min(stats.maximum, threshold))


def linear_counts(stats: TensorStats) -> np.ndarray:
    """Return counts of |x| in 2,048 bins of equal width up to ``absmax``, (2048,) float64.

    Each bin of the statistics is counted at its middle; at the top of the range it is as wide
    as one or two of these.
    """
    low, high, counts = stats.magnitudes()
    place = np.minimum((low + high) / 2 / stats.absmax * BINS, BINS - 1).astype(np.int64)
    return np.bincount(place, weights=counts, minlength=BINS).astype(np.float64)
