"""What one pass learns of one tensor, in constant memory and mergeable."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from calib.counting import count_values
from calib.histogram import (
    Histogram,
    Spans,
    counters_from_histogram,
    histogram_from_counters,
    new_counters,
)

MOMENTUM = 0.9
"""Share that the running extremes keep at each batch (Bondarenko et al. 2023, appendix C.4)."""

_INFINITE = 0xFF << 23


@dataclass(frozen=True, slots=True)
class Moments:
    """Number of values, their mean, and sums of the 2nd to 4th powers of (x − mean)."""

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0
    m3: float = 0.0
    m4: float = 0.0

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of values together.

        References:
            Pébay 2008, SAND2008-6212, equations 2.1, 3.1.
        """
        if not self.count or not other.count:
            return self if self.count else other
        a, b = float(self.count), float(other.count)
        n = a + b
        d = other.mean - self.mean
        m2 = self.m2 + other.m2 + d**2 * a * b / n
        m3 = self.m3 + other.m3 + d**3 * a * b * (a - b) / n**2
        m3 += 3 * d * (a * other.m2 - b * self.m2) / n
        m4 = self.m4 + other.m4 + d**4 * a * b * (a * a - a * b + b * b) / n**3
        m4 += 6 * d**2 * (a * a * other.m2 + b * b * self.m2) / n**2
        m4 += 4 * d * (a * other.m3 - b * self.m3) / n
        return Moments(self.count + other.count, self.mean + d * b / n, m2, m3, m4)


def _moments(count: int, pivot: float, sums: np.ndarray) -> Moments:
    """Return the moments given sums of powers of (x − pivot)."""
    if not count:
        return Moments()
    s1, s2, s3, s4 = (float(s) for s in sums[:4])
    d = s1 / count
    m2 = max(s2 - s1 * d, 0.0)
    m3 = s3 - 3 * d * s2 + 2 * d**2 * s1
    m4 = max(s4 - 4 * d * s3 + 6 * d**2 * s2 - 3 * d**3 * s1, 0.0)
    return Moments(count, pivot + d, m2, m3, m4)


@dataclass(frozen=True, slots=True)
class TensorStats:
    """All one pass learned of a tensor's values.

    Attributes:
        histogram: Of the finite values.
        nonfinite: Number of NaN and infinite values.
        minimum: Smallest finite value, exact; inf if there is none.
        maximum: Largest finite value, exact; −inf if there is none.
        least: Smallest finite |x| that is not 0, exact; inf if there is none.
        exact: Whether every value is the edge of its bin next to 0, as all of float16 and bfloat16
            are.
        moments: Of the finite values.
        batches: How many arrays were seen.
        running_minimum: Exponential moving average of the batches' minima.
        running_maximum: The same of their maxima.
        channel_minimum: (C,) float32 along the last axis, or None if that axis varies.
        channel_maximum: The same.
    """

    histogram: Histogram
    nonfinite: int
    minimum: float
    maximum: float
    least: float
    exact: bool
    moments: Moments
    batches: int
    running_minimum: float
    running_maximum: float
    channel_minimum: np.ndarray | None
    channel_maximum: np.ndarray | None
    _values: Spans | None = field(default=None, init=False, repr=False, compare=False)
    """Kept, as several estimators want them."""

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Return the statistics of one array of any shape, as of one batch."""
        collecting = Accumulator()
        collecting.add(values)
        found = collecting.stats()
        assert isinstance(found, cls)
        return found

    def check(self) -> None:
        """Refuse what no values have given, as a file may hold it.

        Raises:
            ValueError: With what is wrong.
        """
        self.histogram.check()
        if min(self.nonfinite, self.batches) < 0 or np.isnan(self.least) or self.least <= 0:
            raise ValueError("a count is negative, or the least magnitude not positive")
        channels = (self.channel_minimum, self.channel_maximum)
        rows = [c for c in channels if c is not None]
        if any(c.dtype != np.float32 or c.ndim != 1 or np.isnan(c).any() for c in rows):
            raise ValueError("channels have no extremes")
        if not self.histogram.count:
            return
        m, points = self.moments, self.histogram.points
        ends = (self.minimum, self.maximum, self.running_minimum, self.running_maximum)
        if not np.isfinite([*ends, m.mean, m.m2, m.m3, m.m4]).all() or min(m.m2, m.m4) < 0:
            raise ValueError("extremes or moments are not those of finite values")
        if not (self.minimum <= self.maximum and self.batches and max(map(abs, ends)) < 2**128):
            raise ValueError("extremes are not those of float32 values")
        if points.size and not self.minimum <= points[0] <= points[-1] <= self.maximum:
            raise ValueError("values lie outside the extremes")

    def merge(self, other: TensorStats) -> TensorStats:
        """Return the statistics of both sets of values together.

        All but the running extremes are the same whatever the order and the split; those are
        what ``self``'s would be after as many further batches, all with ``other``'s running
        extremes.
        """
        low, high = _joined(self, other, np.minimum, "channel_minimum"), None
        if low is not None:
            high = _joined(self, other, np.maximum, "channel_maximum")
        return TensorStats(
            histogram=self.histogram.merge(other.histogram),
            nonfinite=self.nonfinite + other.nonfinite,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            least=min(self.least, other.least),
            exact=self.exact and other.exact,
            moments=self.moments.merge(other.moments),
            batches=self.batches + other.batches,
            running_minimum=_running(self, self.running_minimum, other, other.running_minimum),
            running_maximum=_running(self, self.running_maximum, other, other.running_maximum),
            channel_minimum=low,
            channel_maximum=high,
        )

    @property
    def count(self) -> int:
        """Number of values seen."""
        return self.moments.count + self.nonfinite

    @property
    def absmax(self) -> float:
        """Largest finite |x|, exact."""
        return max(abs(self.minimum), abs(self.maximum)) if self.moments.count else 0.0

    def values(self) -> Spans:
        """Return where finite x lie, ascending, the extremes exact."""
        if self._values is None:
            spans = self.histogram.spans(self.minimum, self.maximum, exact=self.exact)
            object.__setattr__(self, "_values", spans)
        assert self._values is not None
        return self._values

    def magnitudes(self) -> Spans:
        """Return where finite |x| lie, ascending, the extremes exact."""
        low, high, counts = self.values()
        negative = low < 0.0
        near = np.concatenate([-high[negative][::-1], low[~negative]])
        far = np.concatenate([-low[negative][::-1], high[~negative]])
        counts = np.concatenate([counts[negative][::-1], counts[~negative]])
        order = np.argsort(near, kind="stable")  # two ascending runs, which it joins
        near, far = near[order], far[order]
        return np.where(far > 0.0, np.maximum(near, self.least), 0.0), far, counts[order]


class Accumulator:
    """Collects one tensor batch by batch."""

    def __init__(self, start: TensorStats | None = None) -> None:
        """Begin with nothing, or where ``start`` ended."""
        self._counters = new_counters()
        self._nonfinite = 0
        self._minimum, self._maximum, self._least = np.inf, -np.inf, np.inf
        self._exact = True
        self._moments = Moments()
        self._batches = 0
        self._running = (np.inf, -np.inf)
        self._channels: tuple[np.ndarray, np.ndarray] | None = None
        self._channels_vary = False
        if start is not None and start.count:
            self._take_up(start)

    def add(self, values: np.ndarray) -> int:
        """Take in one batch of any shape, whose last axis are channels.

        Returns:
            How many of its values are NaN or infinite; these do not enter the histogram.
        """
        array = np.ascontiguousarray(values, dtype=np.float32)
        rows = (
            array.reshape(-1, array.shape[-1])
            if array.ndim >= 2 and array.size
            else array.reshape(1, -1)
        )
        low = np.full(rows.shape[1], np.inf, np.float32)
        high = -low
        pivot = _pivot(rows)
        sums = count_values(rows, *self._counters, pivot, low, high)
        nonfinite = 0
        if sums[6] >= _INFINITE:
            known = np.isfinite(rows)
            low = np.where(known, rows, np.float32(np.inf)).min(axis=0)
            high = np.where(known, rows, np.float32(-np.inf)).max(axis=0)
            finite = rows[known][None]
            nonfinite = rows.size - finite.size
            unused = np.zeros(finite.size, np.float32)
            sums = count_values(finite, *new_counters(), pivot, unused, unused)
        self._nonfinite += nonfinite
        self._exact &= sums[4] == 0.0
        if sums[5] < _INFINITE:
            self._least = min(self._least, float(np.uint32(sums[5] + 1).view(np.float32)))
        count = rows.size - nonfinite
        self._moments = self._moments.merge(_moments(count, pivot, sums))
        if count:
            self._run(float(low.min()), float(high.max()))
            self._widen(low, high, known=array.ndim >= 2)
        return nonfinite

    def stats(self) -> TensorStats:
        """Return what was learnt so far."""
        low, high = self._channels if self._channels is not None else (None, None)
        return TensorStats(
            histogram=histogram_from_counters(*self._counters),
            nonfinite=self._nonfinite,
            minimum=self._minimum,
            maximum=self._maximum,
            least=self._least,
            exact=bool(self._exact),
            moments=self._moments,
            batches=self._batches,
            running_minimum=self._running[0],
            running_maximum=self._running[1],
            channel_minimum=None if low is None else low.copy(),
            channel_maximum=None if high is None else high.copy(),
        )

    def _take_up(self, start: TensorStats) -> None:
        self._counters = counters_from_histogram(start.histogram)
        self._nonfinite = start.nonfinite
        self._minimum, self._maximum = start.minimum, start.maximum
        self._least = start.least
        self._exact = start.exact
        self._moments = start.moments
        self._batches = start.batches
        self._running = (start.running_minimum, start.running_maximum)
        low, high = start.channel_minimum, start.channel_maximum
        self._channels_vary = low is None or high is None
        if low is not None and high is not None:
            self._channels = (low.copy(), high.copy())

    def _run(self, low: float, high: float) -> None:
        self._minimum, self._maximum = min(self._minimum, low), max(self._maximum, high)
        if self._batches:
            low = MOMENTUM * self._running[0] + (1 - MOMENTUM) * low
            high = MOMENTUM * self._running[1] + (1 - MOMENTUM) * high
        self._running = (low, high)
        self._batches += 1

    def _widen(self, low: np.ndarray, high: np.ndarray, *, known: bool) -> None:
        if self._channels_vary:
            return
        if self._channels is None and known:
            self._channels = low, high
        elif self._channels is not None and known and len(self._channels[0]) == len(low):
            self._channels = np.minimum(self._channels[0], low), np.maximum(self._channels[1], high)
        else:
            self._channels, self._channels_vary = None, True


def _pivot(rows: np.ndarray) -> float:
    """Return a number near the mean."""
    flat = rows.reshape(-1)
    sample = flat[:: max(1, flat.size // 1024)]
    sample = sample[np.isfinite(sample)]
    return float(np.mean(sample, dtype=np.float64)) if sample.size else 0.0


def _running(a: TensorStats, of_a: float, b: TensorStats, of_b: float) -> float:
    if not a.batches or not b.batches:
        return of_a if a.batches else of_b
    kept = MOMENTUM**b.batches
    return kept * of_a + (1 - kept) * of_b


def _joined(a: TensorStats, b: TensorStats, join: np.ufunc, name: str) -> np.ndarray | None:
    of_a, of_b = getattr(a, name), getattr(b, name)
    if not a.count or not b.count:
        chosen: np.ndarray | None = of_a if a.count else of_b
        return chosen
    if of_a is None or of_b is None or of_a.shape != of_b.shape:
        return None
    joined: np.ndarray = join(of_a, of_b)
    return joined
