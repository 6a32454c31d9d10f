"""How near one arm's values are to another's, added up over batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calib.collector import unpadded
from deploy.tolerance import decibels
from trueint8.kinds import Kind


@dataclass(frozen=True, slots=True)
class Closeness:
    """Two arms at one place.

    Attributes:
        kind: MEASURED where one of them is an engine.
        sqnr_db: Of the second to the first.
        cosine: Of all values as one vector.
        largest: The largest absolute difference, in the tensor's unit.
        flips: Share of positions with another largest element; None where they hold no logits.
        positions: That were compared, padding aside.
    """

    kind: Kind
    sqnr_db: float
    cosine: float
    largest: float
    flips: float | None
    positions: int


class Comparison:
    """Sums over the batches of one pair at one place, in float64."""

    def __init__(self, *, logits: bool = False) -> None:
        self._logits = logits
        self._sums = np.zeros(4)
        self._largest = 0.0
        self._flips = self._positions = 0

    def add(self, reference: np.ndarray, actual: np.ndarray, mask: np.ndarray | None) -> None:
        """Add a batch of both, of one shape; positions where ``mask`` (B, T) is 0 do not count."""
        wanted, given = (
            np.atleast_1d(unpadded(a, mask)).astype(np.float64) for a in (reference, actual)
        )
        error = given - wanted
        pairs = ((wanted, wanted), (error, error), (given, given), (wanted, given))
        self._sums += [float((a * b).sum()) for a, b in pairs]
        self._largest = max(self._largest, float(np.abs(error).max(initial=0.0)))
        self._positions += wanted[..., 0].size
        if self._logits:
            self._flips += int((wanted.argmax(-1) != given.argmax(-1)).sum())

    @property
    def sqnr_db(self) -> float:
        """As :func:`deploy.tolerance.sqnr_db` of all batches at once."""
        return decibels(self._sums[0], self._sums[1])

    def result(self, kind: Kind) -> Closeness:
        """Return the figures so far."""
        signal, _, power, product = self._sums
        norms = float(np.sqrt(signal * power))
        share = self._flips / self._positions if self._logits else None
        cosine = float(product / norms) if norms else float(signal == power)
        return Closeness(kind, self.sqnr_db, cosine, self._largest, share, self._positions)
