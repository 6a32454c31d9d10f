"""The range with the least mean squared error."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from calib.histogram import Spans
from calib.kernels import least_errors, squared_errors
from calib.schemes import INT8, Range, Scheme
from calib.stats import TensorStats

_RATIO = 1.05
"""Of neighbouring scales tried first."""

_PARTS = 4
"""Scales tried next for each step that the largest integer moves."""

_WORK = 4_000_000
"""Scales tried next times bins, at most; then only where the error is near the least."""

_FINER = 4
"""Where values are few, errors are no smooth function of the scale."""

_NEAR = 2.0
_AT_ONCE = 32
_MOST_ROUGH = 1024
_FEWEST = 31
_REFINED = 3
_ROUNDS = 6
_SMOOTH_ROUNDS = 3
_POINTS = 7
_COARSE_MANTISSA_BITS = 7
_HEAVY = 1e-3
"""A bin with this share of the values is not joined with others."""


def estimate(stats: TensorStats, scheme: Scheme = INT8) -> Range:
    """Return the range that minimises E[(x − quantized x)²] over the histogram.

    Clipping and rounding errors are weighed against each other, for every zero point at once.
    Scales are tried from the one that clips nothing down to where clipping alone costs more than
    the best, so densely that the largest integer moves by a quarter, then ever more finely around
    the best few.

    Args:
        stats: One tensor over all batches.
        scheme: Bits and symmetry.

    Returns:
        A range within that of ``minmax``, up to one step at either end.

    References:
        Bondarenko et al. 2021, arXiv:2109.12948, section 2; Choukroun et al. 2019,
        arXiv:1902.06822.
    """
    if stats.absmax == 0.0:
        return Range(0.0, 0.0)
    levels = scheme.levels
    if scheme.symmetric:
        search = _Search.over(stats.values(), 2 * levels, levels, levels)
        scale, _ = search.best(stats.absmax / levels)
        return Range(-scale * levels, scale * levels)
    low, high = max(-stats.minimum, 0.0), max(stats.maximum, 0.0)
    first, last = (0 if high else levels), (levels if low else 0)
    search = _Search.over(stats.values(), levels, first, last)
    spare = 1 if low and high else 0
    scale, zero = search.best(_largest(low, high, levels - spare))
    return Range(-zero * scale, (levels - zero) * scale)


def _largest(low: float, high: float, levels: int) -> float:
    """Return the least scale with which −low to high are covered for some zero point."""
    zeros = np.arange(levels + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.where(low > 0.0, low / zeros, 0.0)
        above = np.where(high > 0.0, high / (levels - zeros), 0.0)
    return float(np.maximum(below, above).min())


@dataclass(frozen=True, slots=True)
class _Search:
    """Bins of x, ascending, the steps of the integers, and the zero points to choose from."""

    low: np.ndarray
    high: np.ndarray
    weights: np.ndarray
    levels: int
    first: int
    last: int

    @classmethod
    def over(cls, spans: Spans, levels: int, first: int, last: int) -> _Search:
        low, high, counts = spans
        return cls(low, high, counts.astype(np.float64), levels, first, last)

    def best(self, largest: float) -> tuple[float, int]:
        """Return the best scale up to ``largest`` and its zero point."""
        joined = self._joined()
        smooth = 2 * len(joined.low) < len(self.low)
        scales, errors = joined._tried(largest, 1 if smooth else _FINER)
        beside = np.concatenate([[np.inf], errors, [np.inf]])
        lowest = np.flatnonzero((errors <= beside[:-2]) & (errors <= beside[2:]))
        chosen = lowest[np.argsort(errors[lowest], kind="stable")][:_REFINED]
        near, width = scales[chosen], self._step()
        for _ in range(_SMOOTH_ROUNDS if smooth else _ROUNDS):
            around = near[:, None] * (1 + width * np.linspace(-1, 1, _POINTS))
            tried = np.minimum(around.ravel(), largest)
            errors, zeros = self._errors(tried)
            index = int(np.argmin(errors))
            near, width = tried[index : index + 1], width * 2 / _POINTS
        return float(tried[index]), int(zeros[index])

    def _errors(self, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each scale's least error and its zero point."""
        if self.first < self.last:
            found = self._clipped(scales)
            return found[0], found[1]
        ends = -self.first, self.levels - self.first
        errors = squared_errors(self.low, self.high, self.weights, scales, *ends)
        return errors, np.full(len(scales), self.first)

    def _clipped(self, scales: np.ndarray) -> np.ndarray:
        """Return the same, and the least that clipping alone costs, (3, S)."""
        bins = self.low, self.high, self.weights
        found: np.ndarray = least_errors(*bins, scales, self.levels, self.first, self.last)
        return found

    def _step(self) -> float:
        """Return the part of a scale that moves the largest integer by a quarter."""
        return 1 / (_PARTS * max(self.last, self.levels - self.first, _FEWEST))

    def _tried(self, largest: float, finer: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scales, descending, so many times finer than need be, and their errors."""
        found: list[np.ndarray] = []
        rough: list[np.ndarray] = []
        for start in range(0, _MOST_ROUGH, _AT_ONCE):
            rough.append(largest * _RATIO ** -np.arange(start, start + _AT_ONCE, dtype=np.float64))
            found.append(self._clipped(rough[-1]))
            best = min(float(errors.min()) for errors, _, _ in found)
            if found[-1][2, -1] > best:
                break
        scales, (errors, _, clipped) = np.concatenate(rough), np.concatenate(found, axis=1)
        parts = finer * (int(np.log(_RATIO) / self._step()) + 1)
        some = clipped <= best
        if some.sum() * parts * len(self.low) > _WORK:
            some &= errors <= _NEAR * best
        between = _RATIO ** (0.5 - np.arange(parts) / parts)
        scales = np.minimum((scales[some, None] * between).ravel(), largest)
        return scales, self._errors(scales)[0]

    def _joined(self) -> _Search:
        """Return bins joined into wider ones, but for those that hold much."""
        middle = (self.low + self.high) / 2
        group = middle.view(np.uint64) >> np.uint64(52 - _COARSE_MANTISSA_BITS)
        heavy = self.weights > _HEAVY * self.weights.sum()
        cut = (group[1:] != group[:-1]) | heavy[1:] | heavy[:-1]
        starts = np.flatnonzero(np.append(True, cut))
        ends = np.append(starts[1:], len(group)) - 1
        weights = np.add.reduceat(self.weights, starts)
        return replace(self, low=self.low[starts], high=self.high[ends], weights=weights)
