"""The range that covers a given share of the values."""

from __future__ import annotations

import numpy as np

from calib.schemes import INT8, Range, Scheme
from calib.stats import TensorStats


def estimate(stats: TensorStats, scheme: Scheme = INT8, *, percentile: float = 99.99) -> Range:
    """Return the range that holds ``percentile`` percent of the values.

    Symmetric: the percentile of |x|. Asymmetric: (100 − percentile)/2 percent are cut from
    each tail. A value at rank r = q·N/100 counted from 1 is looked for, and values are taken to
    be spread evenly within a bin, so the result is within one bin (2⁻¹¹ relative) of the exact
    one; 100 gives the extremes.

    Args:
        stats: One tensor over all batches.
        scheme: Bits and symmetry.
        percentile: Percent, 0 < percentile <= 100.

    Returns:
        A range within that of ``minmax``.

    References:
        Wu et al. 2020, arXiv:2004.09602, section 3.
    """
    if not stats.moments.count:
        return Range(0.0, 0.0)
    if scheme.symmetric:
        threshold = _quantile(*stats.magnitudes(), percentile)
        return scheme.covering(-threshold, threshold)
    low, high, counts = stats.values()
    tail = (100.0 - percentile) / 2
    top = _quantile(low, high, counts, 100.0 - tail)
    bottom = -_quantile(-high[::-1], -low[::-1], counts[::-1], 100.0 - tail)
    return scheme.covering(bottom, top)


def _quantile(low: np.ndarray, high: np.ndarray, counts: np.ndarray, percent: float) -> float:
    """Return the value below which ``percent`` percent lie, given ascending bins."""
    cumulative = np.cumsum(counts, dtype=np.float64)
    rank = percent / 100 * cumulative[-1]
    index = min(int(np.searchsorted(cumulative, rank)), len(counts) - 1)
    below = cumulative[index] - float(counts[index])
    share = min(max((rank - below) / float(counts[index]), 0.0), 1.0)
    return float(low[index] + share * (high[index] - low[index]))
