"""The report for a pull request, as GitHub renders it: verdicts, a table, and what is folded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from deploy.harness.results import TaskRow
from deploy.profiling.results import Row
from deploy.profiling.summary import Comparison, summarize
from deploy.reporting.accuracy_table import accuracy_table
from deploy.reporting.document import Cell, Note, Table, printable
from deploy.reporting.figures import KIND_MEANINGS
from deploy.reporting.ledger_tables import ledger_tables, ledgers
from deploy.reporting.sections import (
    audit,
    environment,
    generation,
    overview,
    rebuilds,
    resources,
    throughput,
    verdict,
)
from deploy.reporting.tasks_section import tasks_section
from trueint8.kinds import Kind

MARK = "<!-- trueint8 report -->"
"""First line: what may be written over."""

_MOST_CHARACTERS = 60_000
"""GitHub takes 65,536 of a comment."""
_ACTIVE = "\\`*_{}[]<>#|~@"
_CLASSES = ("text", "detail", "remark")


def markdown_report(rows: Sequence[Row], title: str, tasks: Sequence[TaskRow] = ()) -> str:
    """Return the first screen of the report, and folded below it what it rests on.

    Args:
        rows: Rows of one or more sessions.
        title: Heading.
        tasks: Of ``deploy lm-eval``.
    """
    comparisons = summarize(rows)
    first = verdict.section(rows, comparisons)
    table = overview.section(rows, comparisons).tables[0]
    lines = [MARK, f"## {escaped(title)}", ""]
    lines += [_statement(note) for note in first.statements]
    if first.warnings:
        lines += ["", "**Warnings**", "", *map(_statement, first.warnings)]
    lines += ["", *_table(table), "", f"<sub>{escaped(first.lead)} {_legend(rows)}</sub>"]
    text = "\n".join(lines) + "\n"
    return text + _fitting(dict(_blocks(rows, comparisons, tasks)), _MOST_CHARACTERS - len(text))


def _fitting(blocks: Mapping[str, str], room: int) -> str:
    """Return as many blocks as there is room for, in their order, and the names of the rest."""
    kept = set()
    for name in sorted(blocks, key=lambda name: len(blocks[name])):
        room -= len(blocks[name])
        if room >= 0:
            kept.add(name)
    left_out = [name for name in blocks if name not in kept]
    text = "".join(block for name, block in blocks.items() if name in kept)
    if left_out:
        text += f"\nToo long for a comment, and in the HTML: {', '.join(map(escaped, left_out))}.\n"
    return text


def _blocks(
    rows: Sequence[Row], comparisons: Sequence[Comparison], tasks: Sequence[TaskRow]
) -> Iterator[tuple[str, str]]:
    """Yield what is folded, by title; no section that draws charts, which need more libraries."""
    yield _folded("Accuracy", [accuracy_table(rows)])
    if tasks:
        yield _folded("Tasks", tasks_section(tasks).tables)
    for part in (audit, generation, throughput, resources, rebuilds):
        found = part.section(rows, comparisons)
        if found is not None and found.tables:
            yield _folded(found.title, [table for table in found.tables if table.brief])
    if having := ledgers(rows):
        yield _folded("Where the time goes", ledger_tables(having))
    where = environment.section(rows, comparisons)
    commands = [line for listing in where.listings for line in listing.lines]
    yield _folded("Environment", [table for table in where.tables if table.brief])
    fence = "`" * max(3, 1 + max(map(_longest_ticks, commands)))
    code = "\n".join([f"{fence}sh", *map(printable, commands), fence])
    yield "Commands", _details("Commands that give this report", code)


def _longest_ticks(line: str) -> int:
    return max(map(len, re.findall("`+", line)), default=0)


def _folded(title: str, tables: Iterable[Table]) -> tuple[str, str]:
    parts = []
    for table in tables:
        parts += [f"**{escaped(table.title)}**", "\n".join(_table(table))]
    return title, _details(title, "\n\n".join(parts))


def _details(title: str, body: str) -> str:
    """Return a block that is folded; blank lines make what is inside Markdown again."""
    return f"\n<details><summary>{escaped(title)}</summary>\n\n{body}\n\n</details>\n"


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
