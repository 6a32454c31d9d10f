"""What runs in INT8 and what does not, by the engine's own word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from deploy.profiling.evidence import AuditEntry
from deploy.profiling.results import Row
from deploy.profiling.summary import Comparison
from deploy.reporting.document import Cell, Column, Section, Table
from deploy.reporting.figures import coverage_cell

COLUMNS = (
    Column("Model"),
    Column("Engine"),
    Column("Matmuls", wide=True),
    Column("Count", numeric=True),
    Column("MACs", numeric=True),
    Column("In the graph"),
    Column("Executed in"),
    Column("Kernel"),
    Column("Why not INT8", wide=True),
)

SHARES = (
    Column("Model"),
    Column("Engine"),
    Column("INT8 MAC coverage", numeric=True),
    Column("Executed in"),
    Column("Share of MACs", numeric=True),
    Column("Matmuls", numeric=True),
    Column("Most frequent reason", wide=True),
)


def section(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Section:
    """Return one line per kind of matmul on each engine; else how to get them."""
    del comparisons
    having = [(row, row.audit) for row in rows if row.audit]
    lead = "These results hold no audit: profile again, or see deploy inspect BUNDLE."
    if having:
        lead = (
            "Every matmul, attention and convolution, read from the engine. Matmuls that differ "
            "by numbers in their names alone, and in nothing else, share a line, with * for each "
            "number; all of them are in report.json."
        )
    lines = tuple(line for row, audit in having for line in _lines(row, audit))
    shares = tuple(line for row, audit in having for line in _shares(row, audit))
    tables = (
        Table("Share of each precision", SHARES, shares, brief=True),
        Table("What each engine executes", COLUMNS, lines, tall=True),
    )
    return Section(
        title="Audit",
        order=50,
        lead=lead,
        tables=tables if having else (),
    )


def _shares(row: Row, audit: Sequence[AuditEntry]) -> Iterator[tuple[Cell, ...]]:
    """Yield a line per precision, that with most multiply-accumulates first."""
    by_precision: dict[str, list[AuditEntry]] = {}
    for entry in audit:
        by_precision.setdefault(entry.executed, []).append(entry)
    macs = {name: sum(e.macs for e in entries) for name, entries in by_precision.items()}
    total = sum(macs.values()) or 1
    for name in sorted(macs, key=lambda name: -macs[name]):
        entries = by_precision[name]
        reasons = Counter(e.why or e.reason for e in entries if e.why or e.reason)
        reason, count = reasons.most_common(1)[0] if reasons else ("", 0)
        yield (
            Cell(row.model, detail=row.bundle),
            Cell(row.engine),
            coverage_cell(row.coverage, row.kind),
            Cell(name),
            Cell(f"{100 * macs[name] / total:.1f} %", row.kind, order=macs[name] / total),
            Cell(str(len(entries)), order=len(entries)),
            Cell(reason, detail=f"{count} of {len(entries)}" if reason else ""),
        )


def _lines(row: Row, audit: Sequence[AuditEntry]) -> Iterator[tuple[Cell, ...]]:
    alike: dict[tuple[str, ...], list[AuditEntry]] = {}
    for entry in audit:
        name = re.sub(r"\d+", "*", re.sub(r"_\d+$", "", entry.matmul))
        said = (name, entry.executed, entry.reason, entry.kernel, entry.why)
        alike.setdefault(said, []).append(entry)
    total = sum(entry.macs for entry in audit) or 1
    for (name, executed, reason, kernel, why), entries in alike.items():
        share = sum(entry.macs for entry in entries) / total
        shown = name if len(entries) > 1 else entries[0].matmul
        yield (
            Cell(row.model, detail=row.bundle),
            Cell(row.engine),
            Cell(shown),
            Cell(str(len(entries)), order=len(entries)),
            Cell(f"{100 * share:.1f} %", order=share),
            Cell("float" if reason else "Q/DQ"),
            Cell(executed, row.kind),
            Cell(kernel),
            Cell(why or reason),
        )
