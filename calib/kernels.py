"""Loops over values and bins that NumPy has no single pass for, compiled by numba.

They release the interpreter's lock, so that threads run them side by side.
"""

from __future__ import annotations

import numba
import numpy as np

_AT_ONCE = 1024
"""Bins that stay in the processor's first cache while one scale after another is tried."""

_REORDERING = {"reassoc", "contract", "nsz", "nnan"}
_compiled = numba.njit(nogil=True, cache=True, error_model="numpy")
_reordering = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_REORDERING)


@numba.njit(
    "float64[::1](float64[::1], float64[::1], float64[::1], float64[::1], int64, int64)",
    nogil=True,
    cache=True,
    error_model="numpy",
    fastmath=_REORDERING,
)
def squared_errors(
    low: np.ndarray, high: np.ndarray, counts: np.ndarray, scales: np.ndarray, qmin: int, qmax: int
) -> np.ndarray:
    """Return, for each scale, Σ (x − scale·clip(round(x / scale), qmin, qmax))² over a histogram.

    Values are taken to be spread evenly within a bin, over which the error is integrated: its
    antiderivative is n·scale³/12 + (x − n·scale)³/3 with n the integer of x. With errors a, b at
    the edges and f = (a² + ab + b²)/3, the mean over a bin is f where both edges have one
    integer, and f + Δn·(scale³/12 − scale·f) / (high − low) elsewhere.

    Args:
        low: (N,) lower edges of the bins.
        high: (N,) upper edges; equal to ``low`` where all values of a bin are equal.
        counts: (N,) values per bin.
        scales: (S,) > 0.
        qmin: Smallest integer.
        qmax: Largest integer.

    Returns:
        (S,) float64.
    """
    least, most = np.float64(qmin), np.float64(qmax)
    found, per_width = np.zeros(scales.size), np.empty(_AT_ONCE)
    for start in range(0, low.size, _AT_ONCE):
        stop = min(start + _AT_ONCE, low.size)
        for i in range(start, stop):
            width = high[i] - low[i]
            per_width[i - start] = 1.0 / width if width > 0.0 else 0.0
        for k in range(scales.size):
            scale = scales[k]
            inverse, cube = 1.0 / scale, scale * scale * scale / 12.0
            total = 0.0
            for i in range(start, stop):
                m = min(max(np.rint(low[i] * inverse), least), most)
                n = min(max(np.rint(high[i] * inverse), least), most)
                a, b = low[i] - m * scale, high[i] - n * scale
                even = (a * a + a * b + b * b) / 3.0
                steps = (n - m) * per_width[i - start]
                total += counts[i] * (even + steps * (cube - scale * even))
            found[k] += total
    return found


@numba.njit(
    "float64[:,::1](float64[::1], float64[::1], float64[::1], float64[::1], int64, int64, int64)",
    nogil=True,
    cache=True,
    error_model="numpy",
    fastmath=_REORDERING,
)
def least_errors(
    low: np.ndarray,
    high: np.ndarray,
    counts: np.ndarray,
    scales: np.ndarray,
    levels: int,
    first: int,
    last: int,
) -> np.ndarray:
    """Return, for each scale, the least Σ (x − scale·clip(round(x / scale), −z, levels − z))².

    What rounding costs does not depend on the zero point z: sums of it up to each value, and of
    powers of x, give the error of every z in one walk. As :func:`squared_errors`, but a bin is
    clipped as a whole.

    Args:
        low: (N,) lower edges of the bins, ascending.
        high: (N,) upper edges.
        counts: (N,) values per bin.
        scales: (S,) > 0.
        levels: Steps between the smallest and the largest integer.
        first: Least zero point.
        last: Largest.

    Returns:
        (3, S): the least error, its zero point, and the least that clipping alone costs.
    """
    size = low.size
    zeroth, one, two = np.zeros(size + 1), np.zeros(size + 1), np.zeros(size + 1)
    middle = np.empty(size)
    for i in range(size):
        a, b = low[i], high[i]
        middle[i] = (a + b) / 2.0
        zeroth[i + 1] = zeroth[i] + counts[i]
        one[i + 1] = one[i] + counts[i] * middle[i]
        two[i + 1] = two[i] + counts[i] * (a * a + a * b + b * b) / 3.0
    found = np.full((3, scales.size), np.inf)
    costs, rounding = np.empty(size), np.zeros(size + 1)
    for k in range(scales.size):
        scale = scales[k]
        inverse, cube = 1.0 / scale, scale * scale * scale / 12.0
        for i in range(size):
            m, n = np.rint(low[i] * inverse), np.rint(high[i] * inverse)
            a, b = low[i] - m * scale, high[i] - n * scale
            even, width = (a * a + a * b + b * b) / 3.0, high[i] - low[i]
            steps = (n - m) / width if width > 0.0 else 0.0
            costs[i] = counts[i] * (even + steps * (cube - scale * even))
        for i in range(size):
            rounding[i + 1] = rounding[i] + costs[i]
        below, above = size, size
        for zero in range(first, last + 1):
            bottom, top = -zero * scale, (levels - zero) * scale
            while below > 0 and middle[below - 1] >= bottom:
                below -= 1
            while above > below and middle[above - 1] > top:
                above -= 1
            clipped = two[below] - bottom * (2.0 * one[below] - bottom * zeroth[below])
            clipped += (two[size] - two[above]) - top * (
                2.0 * (one[size] - one[above]) - top * (zeroth[size] - zeroth[above])
            )
            clipped = max(clipped, 0.0)
            error = clipped + rounding[above] - rounding[below]
            if error < found[0, k]:
                found[0, k], found[1, k] = error, zero
            found[2, k] = min(found[2, k], clipped)
    return found


@numba.njit("float64[::1](float64[::1], int64)", nogil=True, cache=True, error_model="numpy")
def divergences(counts: np.ndarray, levels: int) -> np.ndarray:
    """Return KL(P‖Q) for every number of bins kept, the rest being clipped.

    P are the kept bins, with all beyond them added to the last. Q holds, for each of ``levels``
    groups of bins, the mean of its kept counts wherever P is not empty. Both are normalized.
    Where Q is 0 and P is not, the divergence is infinite.

    Args:
        counts: (N,) float64 counts of |x| in bins of equal width.
        levels: Number of magnitudes the integers hold, at most N.

    Returns:
        (N + 1 − levels,): the first is for ``levels`` bins kept, the last for all.
    """
    mass = np.zeros(counts.size + 1)
    filled = np.zeros(counts.size + 1)
    entropy = np.zeros(counts.size + 1)
    for i in range(counts.size):
        c = counts[i]
        mass[i + 1] = mass[i] + c
        filled[i + 1] = filled[i] + (c > 0.0)
        entropy[i + 1] = entropy[i] + (c * np.log(c) if c > 0.0 else 0.0)
    total = mass[counts.size]
    found = np.full(counts.size + 1 - levels, np.inf)
    # a group's Σ p·log q by its width and start; most groups recur
    terms = np.zeros((counts.size // levels + 2, counts.size))
    for kept in range(levels, counts.size + 1):
        inside, last = mass[kept], counts[kept - 1]
        moved = last + total - inside
        if inside <= 0.0:
            continue
        p_log_p = entropy[kept - 1] + (moved * np.log(moved) if moved > 0.0 else 0.0)
        p_log_q, start = 0.0, 0
        width, rest = divmod(kept, levels)
        over = 0
        for _ in range(levels - 1):
            over += rest
            stop = start + width + (over >= levels)
            over -= levels * (over >= levels)
            term = terms[stop - start, start]
            if term == 0.0:
                group = mass[stop] - mass[start]
                if group > 0.0:
                    term = group * np.log(group / (filled[stop] - filled[start]))
                    terms[stop - start, start] = term
            p_log_q += term
            start = stop
        group = inside - mass[start]
        slots = filled[kept] - filled[start] + (last == 0.0 and moved > 0.0)
        weight = group + total - inside
        if weight > 0.0:
            p_log_q += weight * np.log(group / slots) if group > 0.0 else -np.inf
        found[kept - levels] = (p_log_p - p_log_q) / total - np.log(total / inside)
    return found


@_reordering
def rounding_errors(magnitudes: np.ndarray, scales: np.ndarray, levels: int) -> np.ndarray:
    """Return each row's Σ (x − scale·min(round(x / scale), levels))².

    Args:
        magnitudes: (N, M) float32, >= 0.
        scales: (N,) float64 >= 0; where 0, everything is rounded to 0.
        levels: Largest integer.

    Returns:
        (N,) float64.
    """
    errors = np.zeros(len(scales))
    for row in range(len(scales)):
        scale = scales[row]
        inverse = 1.0 / scale if scale > 0.0 else 0.0
        total = 0.0
        for value in magnitudes[row]:
            difference = value - scale * min(np.rint(value * inverse), levels)
            total += difference * difference
        errors[row] = total
    return errors


@_compiled
def round_in_turn(steps: np.ndarray, factor: np.ndarray, levels: int) -> np.ndarray:
    """Round row after row and move each row's error into the rows below.

    Args:
        steps: (C, N) float32, weights in units of their scale; overwritten.
        factor: (C, C) float32, upper, with a diagonal of ones.
        levels: Largest integer.

    Returns:
        (C, N) float32 integers.
    """
    rows, columns = steps.shape
    limit = np.float32(levels)
    moved = np.empty(columns, np.float32)
    for i in range(rows):
        for n in range(columns):
            whole = min(max(np.rint(steps[i, n]), -limit), limit)
            error = steps[i, n] - whole
            steps[i, n] = whole
            moved[n] = error
        for j in range(i + 1, rows):
            share = factor[i, j]
            for n in range(columns):
                steps[j, n] -= share * moved[n]
    return steps
