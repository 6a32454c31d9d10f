"""The extremes of all values."""

from __future__ import annotations

from calib.schemes import INT8, Range, Scheme
from calib.stats import TensorStats


def estimate(stats: TensorStats, scheme: Scheme = INT8) -> Range:
    """Return the extremes: nothing is clipped, and one outlier sets the step for all.

    Args:
        stats: One tensor over all batches.
        scheme: Bits and symmetry.

    Returns:
        The least range that holds every value, exact.

    References:
        Wu et al. 2020, arXiv:2004.09602, section 3 ("max").
    """
    if not stats.moments.count:
        return Range(0.0, 0.0)
    return scheme.covering(stats.minimum, stats.maximum)
