"""Every metric of every configuration, for the page and for a pull request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.profiling.results import Row
from deploy.profiling.summary import headline_accuracy
from deploy.reporting.document import Cell, Column, Table
from deploy.reporting.figures import (
    SUBJECT,
    accuracy_ends,
    accuracy_text,
    direction,
    missing,
    subject,
)

COLUMNS = (
    *SUBJECT,
    Column("Metric"),
    Column("Value", numeric=True),
    Column("Sequences", "Computed over", numeric=True),
    Column("tokens or labels", "Computed over", numeric=True),
    Column("Data"),
)


def accuracy_table(rows: Sequence[Row]) -> Table:
    """Return a line per row and metric, with its interval over sequences."""
    lines = tuple(line for row in rows for line in _lines(row))
    return Table("Every metric of every configuration", COLUMNS, lines, tall=True)


def _lines(row: Row) -> Iterator[tuple[Cell, ...]]:
    names = subject(row)
    if headline_accuracy(row) is None:
        yield (*names, Cell(""), missing(row, [row]), Cell(""), Cell(""), Cell(row.data))
    for figure in row.accuracy:
        yield (
            *names,
            Cell(figure.metric, detail=direction(figure.metric)),
            Cell(accuracy_text(figure), row.kind, accuracy_ends(figure), order=figure.value),
            Cell(str(figure.samples), order=figure.samples),
            Cell(str(figure.positions), order=figure.positions),
            Cell(row.data),
        )
