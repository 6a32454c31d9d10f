"""The range with the least mean squared error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from calib.estimators.percentile import estimate as percentile_range
from calib.kernels import squared_error
from calib.schemes import INT8, Range, Scheme
from calib.stats import TensorStats

_FEW_LEVELS = 31
"""So few that every zero point is tried."""

_RATIO = 1.05
_MOST_TRIED = 2000
_WORK = 200_000
"""Scales at least tried first, times bins: few bins leave time for a fine search."""

_MANY_BINS = 1000
_COARSE_MANTISSA_BITS = 7
_REFINED = 3
_POINTS = 9
_PERCENTILES = (100.0, 99.999, 99.99, 99.9, 99.0)


def estimate(stats: TensorStats, scheme: Scheme = INT8) -> Range:
    """Return the range that minimises E[(x − quantized x)²] over the histogram.

    Clipping and rounding errors are weighed against each other. For a zero point, scales are
    tried at a constant ratio, from the one that clips nothing down to half the median, then ever
    more finely around the best. Asymmetric: so for every zero point of up to 5 bits; beyond, for
    those of some percentiles, then for neighbours of the best.

    Args:
        stats: One tensor over all batches.
        scheme: Bits and symmetry.

    Returns:
        A range within that of ``minmax``, up to one step.

    References:
        Bondarenko et al. 2021, arXiv:2109.12948, section 2; Choukroun et al. 2019,
        arXiv:1902.06822.
    """
    if stats.absmax == 0.0:
        return Range(0.0, 0.0)
    levels = scheme.levels
    if scheme.symmetric:
        whole = _Search.over(*stats.magnitudes(), levels=2 * levels)
        scale = whole.polished(whole.coarse().best([levels])).scale
        return Range(-scale * levels, scale * levels)
    whole = _Search.over(*stats.values(), levels=levels)
    coarse = whole.coarse()
    best = coarse.best(_zero_points(stats, scheme))
    step = 1 << max(scheme.bits - 4, 0)
    while levels > _FEW_LEVELS and step:
        near = [z for z in (best.zero - step, best.zero + step) if 0 <= z <= levels]
        closer = min((coarse.refined(z, best.scale) for z in near), key=_error)
        if closer.error < best.error:
            best = closer
        else:
            step //= 2
    best = whole.polished(best)
    return Range(-best.zero * best.scale, (levels - best.zero) * best.scale)


@dataclass(frozen=True, slots=True)
class _Choice:
    zero: int
    scale: float
    error: float


def _error(choice: _Choice) -> float:
    return choice.error


@dataclass(frozen=True, slots=True)
class _Search:
    """Bins of x, ascending, and how many steps the integers have above the smallest."""

    low: np.ndarray
    high: np.ndarray
    weights: np.ndarray
    levels: int

    @classmethod
    def over(cls, low: np.ndarray, high: np.ndarray, counts: np.ndarray, *, levels: int) -> _Search:
        return cls(low, high, counts.astype(np.float64), levels)

    def best(self, zeros: Iterable[int]) -> _Choice:
        """Return the best scale and zero point among ``zeros``."""
        tried = [c for z in zeros for c in self._all(z, self._scales(z))]
        found = sorted(tried, key=_error)[:_REFINED]
        return min((self.refined(c.zero, c.scale) for c in found), key=_error)

    def polished(self, choice: _Choice) -> _Choice:
        """Return the best scale in the closest neighbourhood of a choice made on fewer bins."""
        near = choice.scale * np.geomspace(1 / _RATIO, _RATIO, 2 * _POINTS) ** 0.25
        return self._least(choice.zero, np.append(near, choice.scale))

    def refined(self, zero: int, near: float) -> _Choice:
        """Return the best scale within the ratio of two neighbouring first guesses."""
        low, high = near / _RATIO, min(near * _RATIO, self._largest(zero))
        choice = self._least(zero, np.append(np.linspace(low, high, 2 * _POINTS), near))
        for _ in range(2):
            width = (high - low) / _POINTS
            low, high = choice.scale - width, min(choice.scale + width, high)
            tried = np.append(np.linspace(low, high, _POINTS), choice.scale)
            choice = self._least(zero, tried)
        return choice

    def _all(self, zero: int, scales: np.ndarray) -> list[_Choice]:
        ends = -zero, self.levels - zero
        bins = self.low, self.high, self.weights
        return [_Choice(zero, float(s), squared_error(*bins, float(s), *ends)) for s in scales]

    def _least(self, zero: int, scales: np.ndarray) -> _Choice:
        return min(self._all(zero, scales), key=_error)

    def _largest(self, zero: int) -> float:
        """Return the least scale that clips nothing; of a side that has no integers, nothing."""
        below = -self.low[0] / zero if zero else 0.0
        above = self.high[-1] / (self.levels - zero) if zero < self.levels else 0.0
        return float(max(below, above, np.finfo(np.float64).tiny))

    def _scales(self, zero: int) -> np.ndarray:
        largest = self._largest(zero)
        magnitude = np.maximum(np.abs(self.low), np.abs(self.high))
        order = np.argsort(magnitude)
        some = order[magnitude[order] > 0]
        cumulative = np.cumsum(self.weights[some])
        median = magnitude[some][int(np.searchsorted(cumulative, cumulative[-1] / 2))]
        least = min(median / 2 / max(zero, self.levels - zero), largest)
        octaves = np.log(largest / least) / np.log(_RATIO)
        count = int(min(max(octaves, _WORK / len(self.low)), _MOST_TRIED)) + 1
        return np.geomspace(largest, least, count)

    def coarse(self) -> _Search:
        """Return bins joined into wider ones, where there are many."""
        if len(self.low) < _MANY_BINS:
            return self
        middle = ((self.low + self.high) / 2).astype(np.float32)
        group = middle.view(np.uint32) >> np.uint32(23 - _COARSE_MANTISSA_BITS)
        starts = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
        ends = np.append(starts[1:], len(group)) - 1
        weights = np.add.reduceat(self.weights, starts)
        return _Search(self.low[starts], self.high[ends], weights, self.levels)


def _zero_points(stats: TensorStats, scheme: Scheme) -> list[int]:
    if stats.minimum >= 0.0 or stats.maximum <= 0.0:
        return [0 if stats.minimum >= 0.0 else scheme.levels]
    if scheme.levels <= _FEW_LEVELS:
        return list(range(scheme.levels + 1))
    ranges = [percentile_range(stats, scheme, percentile=p) for p in _PERCENTILES]
    shares = [-r.low / (r.high - r.low) for r in ranges if r.high > r.low]
    return sorted({round(s * scheme.levels) for s in (*shares, 0.5)})
