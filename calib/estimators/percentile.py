"""The magnitude that covers a given share of the values."""

from __future__ import annotations

import numpy as np

from calib.stats import TensorStats, bin_edges


def estimate(stats: TensorStats, *, percentile: float = 99.99) -> float:
    """Return the threshold below which ``percentile`` percent of |x| lie.

    Values are taken to be spread evenly within a bin, so the result is within
    one bin width (2⁻⁷ relative) of the exact percentile; 100 gives max |x|.

    Args:
        stats: One tensor over all batches.
        percentile: Percent of |x|, 0 < percentile <= 100. Both tails are cut,
            since the magnitude is taken first.

    Returns:
        amax in the tensor's unit, 0 <= amax <= stats.absmax.

    References:
        Wu et al. 2020, arXiv:2004.09602, section 3.
    """
    counts = stats.absolute_histogram()
    cumulative = np.cumsum(counts, dtype=np.float64)
    rank = percentile / 100 * cumulative[-1]
    index = int(np.searchsorted(cumulative, rank))
    if index >= len(counts):
        return stats.absmax
    edges = bin_edges()
    below = cumulative[index] - float(counts[index])
    share = (rank - below) / float(counts[index]) if counts[index] else 0.0
    upper = min(edges[index + 1], stats.absmax)
    return float(min(edges[index] + share * max(upper - edges[index], 0.0), stats.absmax))
