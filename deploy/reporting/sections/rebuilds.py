"""Whether one build of an engine differs from the next."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from deploy.profiling.build_spread import spread_of
from deploy.profiling.results import Rebuilds, Row
from deploy.profiling.summary import Comparison
from deploy.reporting.document import Cell, Column, Note, Section, Table
from deploy.reporting.figures import SUBJECT, subject

COLUMNS = (
    *SUBJECT,
    Column("Builds", numeric=True),
    Column("Distinct", numeric=True),
    Column("build, s", numeric=True),
    Column("slowest ÷ fastest", "Latency", numeric=True),
    Column("between builds", "Deviation of latency", numeric=True),
    Column("between launches", "Deviation of latency", numeric=True),
    Column("Chance", numeric=True),
)


def section(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Section | None:
    """Return one line per engine that was built again; None without any."""
    del comparisons
    having = [(row, row.rebuilds) for row in rows if row.rebuilds is not None]
    if not having:
        return None
    lines = tuple(_line(row, rebuilds) for row, rebuilds in having)
    return Section(
        title="Spread between builds",
        order=34,
        lead="INT8 engines built again and again from the bundle's graph, and all builds timed "
        "beside each other in several launches. What launches of one build differ by is taken off "
        "the deviation between builds.",
        tables=(Table("Builds of one engine", COLUMNS, lines, tall=True, brief=True),),
        notes=(
            Note(
                "Distinct: builds that differ by content. Chance: that builds which are all alike "
                "would look so different; builds are said to differ at 1 % and below."
            ),
        ),
    )


def _line(row: Row, rebuilds: Rebuilds) -> tuple[Cell, ...]:
    found, seconds = spread_of(rebuilds), sorted(rebuilds.build_s)
    count, kind = len(seconds), row.kind
    middle = median(seconds)
    ends = f"{seconds[0]:.2f} to {seconds[-1]:.2f}"
    return (
        *subject(row),
        Cell(str(count), order=count),
        Cell(str(rebuilds.distinct), order=rebuilds.distinct),
        Cell(f"{middle:.2f}", kind, ends, order=middle),
        Cell(f"{found.extremes:.3f}", kind, remark=found.verdict, order=found.extremes),
        Cell(f"{100 * found.between:.2f} %", kind, order=found.between),
        Cell(f"{100 * found.within:.2f} %", kind, order=found.within),
        Cell(f"{found.chance:.2g}", kind, order=found.chance),
    )
