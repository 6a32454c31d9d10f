"""Exponential moving average of the batches' extremes."""

from __future__ import annotations

from calib.schemes import INT8, Range, Scheme
from calib.stats import TensorStats


def estimate(stats: TensorStats, scheme: Scheme = INT8) -> Range:
    """Return the moving average of the extremes: rare outliers fade, at momentum 0.9.

    The first batch starts the average. The only estimator whose result depends on
    how the data was cut into batches, and on their order.

    Args:
        stats: One tensor over all batches.
        scheme: Bits and symmetry.

    Returns:
        A range within that of ``minmax``.

    References:
        Bondarenko et al. 2023, arXiv:2306.12929, appendix C.4.
    """
    if not stats.batches:
        return Range(0.0, 0.0)
    return scheme.covering(stats.running_minimum, stats.running_maximum)
