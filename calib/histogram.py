"""Counts of float32 values in bins of constant relative width, mergeable, with rare values exact.

A bin is the sign, the exponent and 11 bits of the mantissa of a float32, subnormal or not, so no
range is needed beforehand and any value but 0 is known to one part in 2048. Where a bin holds few
values, or equal ones, these are known exactly: what lies alone decides where a range may end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calib.counting import (
    BINS,
    CARRIED,
    EQUAL,
    EQUAL_SHIFT,
    FEW,
    FINER_BITS,
    MANTISSA_BITS,
    MANY,
    SIGN,
    SUBNORMAL,
    SUBNORMAL_SIGN,
    count_points,
)

RELATIVE_BIN_WIDTH = 2.0**-MANTISSA_BITS
"""Largest width of a bin divided by its lower edge."""

_ZEROS = [0, SIGN]
_NONFINITE = 0xFF << MANTISSA_BITS
_LEAST_EXPONENT = -149
_MOST = 2.0**62
_HIDDEN = 1 << MANTISSA_BITS

Spans = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Lower edges, upper edges and counts, float64 and uint64, (N,) each, ascending; a span whose edges
are equal holds equal values."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many finite values lie where.

    Attributes:
        points: (P,) float32, ascending; the values of bins that hold at most three, or equal ones.
        weights: (P,) uint64, how often each occurs.
        bins: (N,) uint32, ascending; the other bins that hold values.
        counts: (N,) uint64, values in each.
    """

    points: np.ndarray
    weights: np.ndarray
    bins: np.ndarray
    counts: np.ndarray

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self.weights.sum() + self.counts.sum())

    def check(self) -> None:
        """Refuse what no values have given, as a file may hold it.

        Raises:
            ValueError: With what is wrong.
        """
        for values, counts, dtype in (
            (self.points, self.weights, np.float32),
            (self.bins, self.counts, np.uint32),
        ):
            if values.dtype != dtype or values.ndim != 1 or values.shape != counts.shape:
                raise ValueError("values and counts are not two rows of one length")
            if not np.isfinite(values).all() or not (values[1:] > values[:-1]).all():
                raise ValueError("values are not finite and ascending")
        upper = self.bins & np.uint32(SIGN - 1)
        known = (self.bins >= SUBNORMAL) | ((upper >= _HIDDEN) & (upper < _NONFINITE))
        if not (known & (self.bins < BINS)).all():
            raise ValueError("a bin is none of finite values")
        if (self.weights == 0).any() or (self.counts <= FEW).any():
            raise ValueError("a count is too small")
        if self.weights.sum(dtype=float) + self.counts.sum(dtype=float) >= _MOST:
            raise ValueError("counts are too large")

    def merge(self, other: Histogram) -> Histogram:
        """Return the histogram of both sets of values together."""
        points, weights = _summed([(self.points, self.weights), (other.points, other.weights)])
        bins, counts = _summed([(self.bins, self.counts), (other.bins, other.counts)])
        of_point = _bins(points)
        first = _firsts(of_point)
        alone = of_point[first]
        number = np.diff(first, append=len(points))
        total = np.add.reduceat(weights, first) if len(first) else weights
        beside = np.searchsorted(bins, alone)
        taken = np.append(bins, np.uint32(BINS))[beside] == alone
        stays = np.repeat(~taken & ((number == 1) | (total <= FEW)), number)
        bins, counts = _summed([(bins, counts), (of_point[~stays], weights[~stays])])
        return Histogram(points[stays], weights[stays], bins, counts)

    def spans(self, low: float, high: float, *, exact: bool) -> Spans:
        """Return where values lie, as closely as is known.

        Args:
            low: The smallest value.
            high: The largest.
            exact: Whether every value is the edge of its bin next to 0.
        """
        near = _edges(_unsigned(self.bins))
        far = near if exact else _edges(_unsigned(self.bins) + np.uint32(1))
        negative = _negative(self.bins)
        points = self.points.astype(np.float64)
        starts = np.concatenate([points, np.where(negative, -far, near)])
        ends = np.concatenate([points, np.where(negative, -near, far)])
        counts = np.concatenate([self.weights, self.counts])
        order = np.argsort(starts, kind="stable")
        starts, ends = (np.clip(edge[order], low, high) for edge in (starts, ends))
        return _with_ends(starts, ends, counts[order], low, high)


def _with_ends(
    starts: np.ndarray, ends: np.ndarray, counts: np.ndarray, low: float, high: float
) -> Spans:
    """Set the smallest and the largest value apart from the bin they are in."""
    one, apart = np.ones(1, np.uint64), starts < ends
    if apart[:1].any():
        starts, ends = np.append(low, starts), np.append(low, ends)
        counts = np.concatenate([one, counts])
        counts[1] -= one[0]
    if apart[-1:].any():
        starts, ends = np.append(starts, high), np.append(ends, high)
        counts = np.concatenate([counts, one])
        counts[-2] -= one[0]
    return starts, ends, counts


def new_counters() -> tuple[np.ndarray, np.ndarray]:
    """Return the states and the carried counts that ``count_values`` adds to, of no value.

    They span every float32, 10 MiB of address space; only pages that are written take memory, at
    most 18 KiB for each sign and power of two that occurs.
    """
    states, carried = np.zeros(BINS, np.uint8), np.zeros(BINS, np.uint64)
    states[_ZEROS] = MANY  # zeros are equal without a place
    return states, carried


def counters_from_histogram(histogram: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Return what ``count_values`` would have made of the histogram's values."""
    states, carried = new_counters()
    some = histogram.points != 0
    count_points(histogram.points[some], histogram.weights[some], states, carried)
    full, rest = np.divmod(histogram.counts - np.uint64(FEW + 1), np.uint64(CARRIED))
    states[histogram.bins], carried[histogram.bins] = rest + np.uint64(MANY), full
    zeros = int(histogram.weights[~some].sum())
    carried[0], states[0] = zeros // CARRIED, zeros % CARRIED + MANY
    return states, carried


def histogram_from_counters(states: np.ndarray, carried: np.ndarray) -> Histogram:
    """Return what ``count_values`` counted of finite values."""
    used = np.flatnonzero(states != 0)
    upper = used & (SIGN - 1)
    used = used[(used >= SUBNORMAL) | (upper == 0) | ((upper >= _HIDDEN) & (upper < _NONFINITE))]
    state, held = states[used].astype(np.uint64), carried[used]
    count = state - np.uint64(MANY) + np.uint64(CARRIED) * held  # beyond the first few
    zero = (used == 0) | (used == SIGN)
    many = (state >= MANY) & ~zero
    parts = [_repeated(np.zeros(1, np.float32), count[zero].sum(keepdims=True))]
    for i in range(FEW):
        some = (state <= FEW) & (state > i)
        place = (held[some] >> np.uint64(FINER_BITS * i)) & np.uint64((1 << FINER_BITS) - 1)
        parts.append(_repeated(_values(used[some], place), np.ones(some.sum(), np.uint64)))
    equal = state == EQUAL
    number = held[equal] & np.uint64((1 << EQUAL_SHIFT) - 1)
    parts.append(_repeated(_values(used[equal], held[equal] >> np.uint64(EQUAL_SHIFT)), number))
    points, weights = _summed(parts)
    return Histogram(
        points, weights, used[many].astype(np.uint32), count[many] + np.uint64(FEW + 1)
    )


def _repeated(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values[counts > 0], counts[counts > 0]


def _values(bins: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return float32 values by bin and place in it."""
    bits = (bins.astype(np.uint64) << np.uint64(FINER_BITS)) | place
    small = bins >= SUBNORMAL
    exponent, leading = np.divmod((bins[small] - SUBNORMAL) % SUBNORMAL_SIGN, _HIDDEN)
    mantissa = ((leading + _HIDDEN) << FINER_BITS) + place[small].astype(np.int64)
    bits[small] = (mantissa >> (23 - exponent)) + (_negative(bins[small]).astype(np.int64) << 31)
    values: np.ndarray = bits.astype(np.uint32).view(np.float32)
    return values


def _bins(values: np.ndarray) -> np.ndarray:
    """Return the bin of each float32."""
    bits = values.view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    small = (magnitude > 0) & (magnitude < 1 << 23)
    steps = magnitude[small].astype(np.float32).view(np.uint32) >> np.uint32(FINER_BITS)
    found: np.ndarray = bits >> np.uint32(FINER_BITS)
    found[small] = steps + np.uint32(SUBNORMAL - (127 << MANTISSA_BITS))
    found[small] += (bits[small] >> np.uint32(31)) * np.uint32(SUBNORMAL_SIGN)
    return found


def _negative(bins: np.ndarray) -> np.ndarray:
    """Return whether values of the bins have a minus sign."""
    small = bins >= SUBNORMAL
    return np.where(small, bins >= SUBNORMAL + SUBNORMAL_SIGN, bins >= SIGN)


def _unsigned(bins: np.ndarray) -> np.ndarray:
    """Return the bins of |x|."""
    sign = np.where(bins >= SUBNORMAL, np.uint32(SUBNORMAL_SIGN), np.uint32(SIGN))
    found: np.ndarray = bins - np.where(_negative(bins), sign, np.uint32(0))
    return found


def _edges(bins: np.ndarray) -> np.ndarray:
    """Return the lower edges of bins of |x|, float64; of the first non-finite bin, 2**128."""
    small = bins >= SUBNORMAL
    bits = np.where(small, np.uint32(0), bins) << np.uint32(FINER_BITS)
    edges: np.ndarray = bits.view(np.float32).astype(np.float64)
    edges[bits >= 0xFF << 23] = 2.0**128
    exponent, leading = np.divmod(bins[small].astype(np.int64) - SUBNORMAL, _HIDDEN)
    edges[small] = np.ldexp(1 + leading / _HIDDEN, exponent + _LEAST_EXPONENT)
    return edges


def _summed(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return all keys, ascending, each once, and the sum of their counts."""
    keys, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = _firsts(keys)
    return keys[first], (np.add.reduceat(counts[order], first) if len(first) else counts)


def _firsts(keys: np.ndarray) -> np.ndarray:
    """Return where runs of equal keys begin."""
    return np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
