"""What a section is made of: plain data, which the one template or a terminal renders."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from trueint8.kinds import Kind

_FULLY_SHOWN = 14
"""Lines of a table that no reader minds to pass by."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell; its kind is shown as a badge beside the text."""

    text: str
    kind: Kind | None = None
    """None for names, counts, sizes and settings, which are plain facts."""
    detail: str = ""
    """Smaller second line, such as an interval."""
    remark: str = ""
    """What a reader must not overlook, such as "slower"."""
    muted: bool = False
    """Whether the text says why there is no figure."""
    order: float | None = None
    """What the cell is sorted by; None for its text."""
    alternatives: tuple[tuple[str, Cell], ...] = ()
    """The same cell for other baselines, by their names."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column; neighbours of the same group share a second header above them."""

    title: str
    group: str = ""
    numeric: bool = False
    wide: bool = False
    """Whether its cells hold sentences or long names."""

    @property
    def full_title(self) -> str:
        """Title that stands alone: group and title."""
        return f"{self.group}: {self.title}" if self.group else self.title


@dataclass(frozen=True, slots=True)
class Table:
    """A table; every row has one cell per column."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    stacked: bool = False
    """Whether rows become cards on a narrow screen; other tables scroll in their own box."""
    tall: bool = False
    """Whether it may be so long that its box scrolls up and down."""
    brief: bool = False
    """Whether the report for a pull request has it too."""

    def __post_init__(self) -> None:
        """Check that every row is as wide as the header."""
        assert all(len(row) == len(self.columns) for row in self.rows), self.title

    @property
    def long(self) -> bool:
        """Whether its box scrolls up and down."""
        return self.tall and len(self.rows) > _FULLY_SHOWN

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Upper header: each group's name with how many columns it spans."""
        spans = groupby(self.columns, key=lambda column: column.group)
        return [(name, len(list(columns))) for name, columns in spans]


@dataclass(frozen=True, slots=True)
class Chart:
    """A Vega-Lite chart, drawn as wide as its container; a table repeats its figures."""

    title: str
    description: str
    spec: dict[str, Any]
    model: str = ""
    engine: str = ""
    """What a reader can filter by; empty for charts of several."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Lines to be copied as they are."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """A line below the tables, with a badge where it is about one kind of figure."""

    text: str
    kind: Kind | None = None
    name: str = ""
    """What the line is about, set off from the text."""
    fix: str = ""
    """What to do about it."""
    model: str = ""
    engine: str = ""
    """What a reader can filter by."""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report; the smallest order stands first."""

    title: str
    order: int
    lead: str = ""
    statements: tuple[Note, ...] = ()
    """What is to be read first."""
    warnings: tuple[Note, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    listings: tuple[Listing, ...] = ()
    notes: tuple[Note, ...] = ()


def printable(text: str) -> str:
    """Return the text without control characters, which could steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
