"""Bundles with the statistics of their activations, and how many of them a table can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.profiling.evidence import TensorEntry
from deploy.profiling.results import Row
from deploy.reporting.document import Cell

_MOST_LINES = 300
_FEWEST_LINES = 5
ABSENT = "These results hold no statistics of activations: build with --quantizer trueint8 and "
ABSENT += "profile again."


@dataclass(frozen=True, slots=True)
class Layers:
    """One bundle."""

    row: Row
    tensors: list[TensorEntry]

    @property
    def names(self) -> list[str]:
        """What reads each tensor."""
        return [reader(tensor) for tensor in self.tensors]

    @property
    def title(self) -> str:
        """Model, bundle and calibration."""
        return f"{self.row.model} · {self.row.bundle} · {self.row.calibration}"

    def cells(self, tensor: TensorEntry) -> tuple[Cell, Cell]:
        """Return the first cells of the tensor's line."""
        return Cell(self.row.model, detail=self.row.bundle), Cell(
            reader(tensor), detail=tensor.tensor
        )


def layers(rows: Sequence[Row]) -> list[Layers]:
    """Return every bundle that carries statistics, once."""
    having = {row.bundle_sha256: row for row in rows if row.tensors}
    return [Layers(row, row.tensors) for row in having.values() if row.tensors]


def reader(tensor: TensorEntry) -> str:
    """Return the first matmul that reads a tensor, and how many more do."""
    if not tensor.layers:
        return tensor.tensor
    more = len(tensor.layers) - 1
    return f"{tensor.layers[0]} and {more} more" if more else tensor.layers[0]


def most_lines(found: Sequence[Layers]) -> int:
    """Return how many tensors of each bundle a table shows."""
    return max(_FEWEST_LINES, _MOST_LINES // max(len(found), 1))


def left_out(found: Sequence[Layers]) -> str:
    """Return what to say of tensors that a table does not show."""
    most = most_lines(found)
    if all(len(of.tensors) <= most for of in found):
        return ""
    return f" The table shows {most} of each bundle; all are in report.json."
