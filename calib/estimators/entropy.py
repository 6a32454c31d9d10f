"""The threshold whose integers keep most of the distribution's information."""

from __future__ import annotations

import numpy as np

from calib.kernels import divergences
from calib.schemes import INT8, Range, Scheme
from calib.stats import TensorStats
from trueint8.errors import ConfigError

BINS = 2048
"""Bins of equal width over |x|."""

_SHARES = (1 / 6, 1 / 2, 5 / 6)


def estimate(stats: TensorStats, scheme: Scheme = INT8) -> Range:
    """Return the threshold with the least KL(P‖Q), P being |x| clipped and Q the same quantized.

    |x| is taken on 2,048 bins of equal width, from the largest magnitude down; every number
    of bins from 2ᵇ⁻¹ up is tried. Where in their bin of the statistics values lie is not known:
    the mean of three divergences is taken, with each third's middle, lest one rare value at an
    edge decides. Asymmetric: the same threshold on either side, cut to the extremes.

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
    found = np.mean([divergences(counts, levels) for counts in linear_counts(stats)], axis=0)
    threshold = (levels + int(np.argmin(found))) * stats.absmax / BINS
    if scheme.symmetric:
        return Range(-threshold, threshold)
    return scheme.covering(max(stats.minimum, -threshold), min(stats.maximum, threshold))


def linear_counts(stats: TensorStats) -> list[np.ndarray]:
    """Return counts of |x| in 2,048 bins of equal width up to ``absmax``, each (2048,) float64.

    There is one for each place within a bin of the statistics that its values are taken to be
    at; at the top of the range that bin is a quarter to half as wide as one of these.
    """
    low, high, counts = stats.magnitudes()
    found = []
    for share in _SHARES:
        place = (low + share * (high - low)) / stats.absmax * BINS
        place = np.minimum(place, BINS - 1).astype(np.int64)
        found.append(np.bincount(place, weights=counts, minlength=BINS).astype(np.float64))
    return found
