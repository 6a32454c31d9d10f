"""The report for a pull request: verdicts, warnings and one table, as GitHub renders them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.profiling.results import Row
from deploy.profiling.summary import summarize
from deploy.reporting.document import Cell, Note, Table, printable
from deploy.reporting.figures import KIND_MEANINGS
from deploy.reporting.sections import overview, verdict
from trueint8.kinds import Kind

MARK = "<!-- trueint8 report -->"
"""First line: what may be written over."""

_ACTIVE = "\\`*_{}[]<>#|~@"
_CLASSES = ("text", "detail", "remark")


def markdown_report(rows: Sequence[Row], title: str) -> str:
    """Return the first screen of the report.

    Args:
        rows: Rows of one or more sessions.
        title: Heading.
    """
    comparisons = summarize(rows)
    first = verdict.section(rows, comparisons)
    table = overview.section(rows, comparisons).tables[0]
    lines = [MARK, f"## {escaped(title)}", ""]
    lines += [_statement(note) for note in first.statements]
    if first.warnings:
        lines += ["", "**Warnings**", "", *map(_statement, first.warnings)]
    lines += ["", *_table(table), "", f"<sub>{escaped(first.lead)} {_legend(rows)}</sub>"]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return "".join(f"\\{c}" if c in _ACTIVE else c for c in printable(text))


def _statement(note: Note) -> str:
    kind = f" `{note.kind}`" if note.kind else ""
    fix = f" *Fix:* {escaped(note.fix)}." if note.fix else ""
    return f"- **{escaped(note.name)}**: {escaped(note.text)}{kind}{fix}"


def _table(table: Table) -> Iterator[str]:
    yield _line(escaped(column.full_title) for column in table.columns)
    yield _line("---:" if column.numeric else "---" for column in table.columns)
    for row in table.rows:
        yield _line(map(_cell, row))


def _line(cells: Iterator[str] | map[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    pieces = [escaped(getattr(cell, name)) for name in _CLASSES if getattr(cell, name)]
    if cell.kind:
        pieces.insert(1, f"`{cell.kind}`")
    return "<br>".join(pieces)


def _legend(rows: Sequence[Row]) -> str:
    kinds = [kind for kind in Kind if any(row.kind is kind for row in rows)]
    return " ".join(f"{kind}: {escaped(KIND_MEANINGS[kind])}" for kind in kinds)
