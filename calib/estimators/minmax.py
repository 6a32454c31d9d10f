"""The largest magnitude seen."""

from __future__ import annotations

from calib.stats import TensorStats


def estimate(stats: TensorStats) -> float:
    """Return max |x|: nothing is clipped, and one outlier sets the step for all.

    Args:
        stats: One tensor over all batches.

    Returns:
        amax in the tensor's unit, exact.

    References:
        Wu et al. 2020, arXiv:2004.09602, section 3 ("max").
    """
    return stats.absmax
