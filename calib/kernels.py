"""Loops over values and bins that NumPy has no single pass for, compiled by numba.

They release the interpreter's lock, so that threads run them side by side.
"""

from __future__ import annotations

import numba
import numpy as np

MANTISSA_BITS = 12
"""Bits of the mantissa that choose a bin."""

BINS = 1 << (9 + MANTISSA_BITS)
"""One bin per sign, exponent and leading bits of the mantissa of a float32."""

CARRIED = 255
"""What one of ``carried`` stands for."""

_SHIFT = 23 - MANTISSA_BITS
_REORDERING = {"reassoc", "contract", "nsz", "nnan"}
_compiled = numba.njit(nogil=True, cache=True, error_model="numpy")
_reordering = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_REORDERING)


@numba.njit(
    "float64[::1](float32[:,::1], uint8[::1], uint64[::1], float64, float32[::1], float32[::1])",
    nogil=True,
    cache=True,
    error_model="numpy",
    fastmath=_REORDERING,
)
def count_values(
    rows: np.ndarray,
    units: np.ndarray,
    carried: np.ndarray,
    pivot: float,
    low: np.ndarray,
    high: np.ndarray,
) -> np.ndarray:
    """Count values into bins, widen the channels' extremes, and return sums of powers.

    A count is ``units`` + :data:`CARRIED`·``carried``, and ``units`` is 0 only where nothing was
    counted. One byte for each bin in use stays in the processor's first cache; one addition in
    255 goes further.

    Args:
        rows: (N, C) float32.
        units: (BINS,) uint8, indexed by the upper bits of a float32; added to.
        carried: (BINS,) uint64; one more where ``units`` is full and starts from 1.
        pivot: Any finite number near the mean.
        low: (C,) float32, lowered where a row is lower.
        high: (C,) float32, raised where a row is higher.

    Returns:
        (5,) float64: sums of the first four powers of (x − pivot), and the union of the values'
        bits below those that choose a bin.
    """
    bits = rows.view(np.uint32)
    sums = np.zeros(5)
    finer = np.uint32(0)
    for r in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            place = bits[r, c] >> np.uint32(_SHIFT)
            count = np.uint8(units[place] + np.uint8(1))
            if count == 0:
                carried[place] += np.uint64(1)
                count = np.uint8(1)
            units[place] = count
        first = second = third = fourth = 0.0
        for c in range(rows.shape[1]):
            d = np.float64(rows[r, c]) - pivot
            square = d * d
            first += d
            second += square
            third += square * d
            fourth += square * square
        for c in range(rows.shape[1]):
            finer |= bits[r, c]
            low[c] = min(low[c], rows[r, c])
            high[c] = max(high[c], rows[r, c])
        sums[0] += first
        sums[1] += second
        sums[2] += third
        sums[3] += fourth
    sums[4] = finer & np.uint32((1 << _SHIFT) - 1)
    return sums


@_reordering
def squared_error(
    low: np.ndarray, high: np.ndarray, counts: np.ndarray, scale: float, qmin: int, qmax: int
) -> float:
    """Return Σ (x − scale·clip(round(x / scale), qmin, qmax))² over a histogram.

    Values are taken to be spread evenly within a bin, over which the error is integrated: its
    antiderivative is n·scale³/12 + (x − n·scale)³/3 with n the integer of x. With errors a, b at
    the edges and f = (a² + ab + b²)/3, the mean over a bin is f where both edges have one
    integer, and f + Δn·(scale³/12 − scale·f) / (high − low) elsewhere.

    Args:
        low: (N,) float64, lower edges of the bins.
        high: (N,) upper edges; equal to ``low`` where all values of a bin are equal.
        counts: (N,) values per bin.
        scale: > 0.
        qmin: Smallest integer.
        qmax: Largest integer.
    """
    total = 0.0
    least, most = np.float64(qmin), np.float64(qmax)
    inverse, cube = 1.0 / scale, scale * scale * scale / 12.0
    for i in range(low.size):
        m = min(max(np.rint(low[i] * inverse), least), most)
        n = min(max(np.rint(high[i] * inverse), least), most)
        a, b = low[i] - m * scale, high[i] - n * scale
        even = (a * a + a * b + b * b) / 3.0
        width = high[i] - low[i]
        steps = (n - m) / width if width > 0.0 else 0.0
        total += counts[i] * (even + steps * (cube - scale * even))
    return total


@_compiled
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
