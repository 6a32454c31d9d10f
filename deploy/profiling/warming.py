"""When a warm-up is over: when runs stop getting faster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WINDOW_NS = 100_000_000
LEAST_RUNS = 3
WINDOWS = 4
TOLERANCE = 0.02


def settled(times_ns: Sequence[int]) -> bool:
    """Return whether the last runs are no faster than those before them.

    Times are cut from the end into windows of at least 100 ms and 3 runs. It is settled once the
    last window's median is not more than 2 % below the least median of the three before it;
    runs that only got slower are settled: noise is no warm-up.

    Args:
        times_ns: Of all runs so far, in order.
    """
    medians = _medians_from_the_end(times_ns)
    if len(medians) < WINDOWS:
        return False
    last, *before = medians[:WINDOWS]
    return bool(last >= (1 - TOLERANCE) * min(before))


def _medians_from_the_end(times_ns: Sequence[int]) -> list[float]:
    """Return the median of each whole window, the last window first."""
    medians: list[float] = []
    window: list[int] = []
    for time in reversed(times_ns):
        window.append(time)
        if len(window) >= LEAST_RUNS and sum(window) >= WINDOW_NS:
            medians.append(float(np.median(window)))
            window = []
        if len(medians) == WINDOWS:
            break
    return medians
