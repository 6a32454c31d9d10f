"""Counting of float32 values into bins, one pass over memory, compiled by numba.

It releases the interpreter's lock, so that threads run side by side.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

MANTISSA_BITS = 11
"""Bits of the mantissa that choose a bin."""

SIGN = 1 << (8 + MANTISSA_BITS)
"""What a minus sign adds to the bin of a float32: its upper bits."""

SUBNORMAL = 2 * SIGN
"""The first bin of numbers below 2⁻¹²⁶, which have bins of their own, one power of two after
another from 2⁻¹⁴⁹ up."""

SUBNORMAL_SIGN = 23 << MANTISSA_BITS
"""What a minus sign adds there."""

BINS = SUBNORMAL + 2 * SUBNORMAL_SIGN

FEW = 3
"""As many values of a bin are known exactly."""

EQUAL = FEW + 1
"""State of a bin with more values, all equal."""

MANY = EQUAL + 1
"""Least state of a bin with more values, not all equal, which then is FEW + 1 of them."""

CARRIED = 256 - MANY
"""What one of ``carried`` stands for in such a bin."""

FINER_BITS = 23 - MANTISSA_BITS
"""Bits of a float32 that do not choose its bin: its place in it."""

EQUAL_SHIFT = 64 - FINER_BITS
"""Above so many bits, which hold the count, ``carried`` holds the place of equal values."""

_FINER = (1 << FINER_BITS) - 1
_TINY = 1 << 23
_MAGNITUDE = 0x7FFFFFFF
_REORDERING = {"reassoc", "contract", "nsz", "nnan"}
_compiled = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def _begin(carried: np.ndarray, place: int, state: int, finer: int) -> Any:
    """Return the next state of a bin that holds few or equal values, or is full."""
    held = carried[place]
    if state == 0:
        carried[place] = held + np.uint64(1)
        return MANY
    if state <= FEW:
        carried[place] = (held << np.uint64(FINER_BITS)) | np.uint64(finer)
        return state
    if state == EQUAL:
        alike = True
        for i in range(FEW):
            alike &= (held >> np.uint64(FINER_BITS * i)) & np.uint64(_FINER) == np.uint64(finer)
        carried[place] = (np.uint64(finer) << np.uint64(EQUAL_SHIFT)) + np.uint64(EQUAL)
        if not alike:
            carried[place] = 0
        return EQUAL if alike else MANY
    if held >> np.uint64(EQUAL_SHIFT) == np.uint64(finer):
        carried[place] = held + np.uint64(1)
        return EQUAL
    beyond = (held & np.uint64((1 << EQUAL_SHIFT) - 1)) - np.uint64(FEW)
    carried[place] = beyond // np.uint64(CARRIED)
    return MANY + np.int64(beyond % np.uint64(CARRIED))


@_compiled
def _count(states: np.ndarray, carried: np.ndarray, place: int, finer: int) -> None:
    state = np.uint8(states[place] + np.uint8(1))
    if state <= np.uint8(MANY):
        state = np.uint8(_begin(carried, place, np.int64(state), finer))
    states[place] = state


@_compiled
def _place(bits: int) -> Any:
    """Return the bin of a value, given as the bits of a float32, and its place there."""
    whole = np.int64(bits)
    magnitude = whole & 0x7FFFFFFF
    if magnitude == 0 or magnitude >= _TINY:
        return whole >> FINER_BITS, whole & _FINER
    exponent = 22
    while magnitude >> exponent == 0:
        exponent -= 1
    mantissa = (magnitude << (23 - exponent)) - _TINY
    place = SUBNORMAL + (whole >> 31) * SUBNORMAL_SIGN + (exponent << MANTISSA_BITS)
    return place + (mantissa >> FINER_BITS), mantissa & _FINER


@_compiled
def _recount_subnormal(row: np.ndarray, states: np.ndarray, carried: np.ndarray) -> None:
    """Count subnormal values in bins of their own, no longer among zeros."""
    for c in range(row.size):
        place, rest = _place(row[c])
        if place < SUBNORMAL:
            continue
        _count(states, carried, place, rest)
        counted = np.int64(row[c]) >> FINER_BITS
        if counted & (SIGN - 1) == 0:
            full = states[counted] == np.uint8(MANY)
            carried[counted] -= np.uint64(full)
            states[counted] = np.uint8(255) if full else states[counted] - np.uint8(1)


@numba.njit(
    "float64[::1](float32[:,::1], uint8[::1], uint64[::1], float64, float32[::1], float32[::1])",
    nogil=True,
    cache=True,
    error_model="numpy",
    fastmath=_REORDERING,
)
def count_values(
    rows: np.ndarray,
    states: np.ndarray,
    carried: np.ndarray,
    pivot: float,
    low: np.ndarray,
    high: np.ndarray,
) -> np.ndarray:
    """Count values into bins, widen the channels' extremes, and return sums of powers.

    A bin is 0 while empty. Up to :data:`FEW` it is the number of values, whose places in the bin
    ``carried`` holds, the latest in the lowest bits. Then it is :data:`EQUAL` as long as all are
    equal, and ``carried`` is their place and their number; else :data:`MANY` or more, of which the
    count is ``state − MANY + FEW + 1 + CARRIED·carried``. One byte for each bin in use stays in
    the processor's first cache, and what is done once in many values goes further.

    Args:
        rows: (N, C) float32.
        states: (BINS,) uint8, indexed by the upper bits of a float32; changed.
        carried: (BINS,) uint64; changed.
        pivot: Any finite number near the mean.
        low: (C,) float32, lowered where a row is lower.
        high: (C,) float32, raised where a row is higher.

    Returns:
        (7,) float64: sums of the first four powers of (x − pivot); the union of the values' bits
        below those that choose a bin; as bits of a float32 the least |x| that is not 0, less one,
        and the largest.
    """
    bits = rows.view(np.uint32)
    sums = np.zeros(7)
    finer, least, most = np.uint32(0), np.uint32(0xFFFFFFFF), np.uint32(0)
    for r in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            place = bits[r, c] >> np.uint32(FINER_BITS)
            state = np.uint8(states[place] + np.uint8(1))
            if state <= np.uint8(MANY):
                state = np.uint8(_begin(carried, place, state, bits[r, c] & np.uint32(_FINER)))
            states[place] = state
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
        least_here = np.uint32(0xFFFFFFFF)
        for c in range(rows.shape[1]):
            magnitude = np.uint32(bits[r, c] & np.uint32(_MAGNITUDE))
            least_here = min(least_here, np.uint32(magnitude - np.uint32(1)))
            most = max(most, magnitude)
        if least_here < np.uint32(_TINY - 1):
            _recount_subnormal(bits[r], states, carried)
        least = min(least, least_here)
        sums[0] += first
        sums[1] += second
        sums[2] += third
        sums[3] += fourth
    sums[4] = finer & np.uint32(_FINER)
    sums[5], sums[6] = least, most
    return sums


@numba.njit("void(float32[::1], uint64[::1], uint8[::1], uint64[::1])", nogil=True, cache=True)
def count_points(
    values: np.ndarray, counts: np.ndarray, states: np.ndarray, carried: np.ndarray
) -> None:
    """Count values that occur several times each, those of a bin few or all equal.

    Args:
        values: (N,) float32.
        counts: (N,) uint64.
        states: (BINS,) uint8, as in :func:`count_values`; changed.
        carried: (BINS,) uint64; changed.
    """
    bits = values.view(np.uint32)
    for i in range(values.size):
        place, rest = _place(bits[i])
        for _ in range(min(counts[i], np.uint64(EQUAL))):
            _count(states, carried, place, rest)
        if counts[i] > np.uint64(EQUAL):
            carried[place] += counts[i] - np.uint64(EQUAL)
