"""What one pass learns of one tensor, in constant memory and mergeable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

BINS = 1 << 16
"""One bin per upper half of a float32's bits: sign, exponent, 7 bits of mantissa."""

RELATIVE_BIN_WIDTH = 2.0**-7
"""Width of a bin divided by its lower edge, for normal numbers."""

_SIGN = 1 << 15
_NONFINITE = 0x7F80


@dataclass(frozen=True, slots=True)
class TensorStats:
    """Histogram and exact extremes of all values of a tensor seen so far.

    ``histogram`` (65536,) uint64 counts values by the upper 16 bits of their
    float32 representation, so it needs no range beforehand and any quantile
    has a bounded relative error. ``minimum`` and ``maximum`` are exact.
    """

    histogram: np.ndarray
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Return the statistics of one array of any shape."""
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        histogram = np.bincount(flat.view(np.uint32) >> 16, minlength=BINS).astype(np.uint64)
        if not flat.size:
            return cls(histogram, np.inf, -np.inf)
        return cls(histogram, float(flat.min()), float(flat.max()))

    def merge(self, other: TensorStats) -> TensorStats:
        """Return the statistics of both sets of values together."""
        return TensorStats(
            self.histogram + other.histogram,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )

    @property
    def count(self) -> int:
        """Number of values seen."""
        return int(self.histogram.sum())

    @property
    def nonfinite(self) -> int:
        """Number of NaN and infinite values seen."""
        absolute = self.absolute_histogram()
        return int(absolute[_NONFINITE:].sum())

    @property
    def absmax(self) -> float:
        """Largest |x|, exact."""
        return max(abs(self.minimum), abs(self.maximum))

    def absolute_histogram(self) -> np.ndarray:
        """Return counts of |x| by the upper 15 bits below the sign, (32768,) uint64."""
        both: np.ndarray = self.histogram[:_SIGN] + self.histogram[_SIGN:]
        return both


def bin_edges() -> np.ndarray:
    """Return the 32769 edges of the bins of |x|, float64; inf from 2**128 on."""
    finite = np.arange(_NONFINITE, dtype=np.uint32) << np.uint32(16)
    edges = np.full(_SIGN + 1, np.inf)
    edges[:_NONFINITE] = finite.view(np.float32)
    return edges
