"""Tasks of lm-evaluation-harness beside each other: every bundle's float, simulated and INT8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.harness.results import TaskRow
from deploy.profiling.statistics import Estimate
from deploy.reporting.document import Cell, Column, Note, Section, Table
from deploy.reporting.figures import interval, rounded
from deploy.reporting.published_tasks import by_metric

COLUMNS = (
    Column("Task"),
    Column("Metric"),
    Column("Model"),
    Column("Engine"),
    Column("Configuration"),
    Column("Value", numeric=True),
    Column("Items", numeric=True),
    Column("difference", "Against float, same items", numeric=True),
    Column("flips", "Against float, same items", numeric=True),
)
_DECIMALS = 4


def tasks_section(rows: Sequence[TaskRow]) -> Section:
    """Return the section of tasks.

    Args:
        rows: One or more.
    """
    lines = tuple(_line(row) for block in by_metric(rows).values() for row in block)
    return Section(
        title="Tasks",
        order=36,
        lead="Tasks of lm-evaluation-harness, answered by the float graph, by the Q/DQ graph in "
        "float arithmetic (SIMULATED) and by the INT8 engine. Under each value stands its 95 % "
        "interval over items; under each difference that over the same items on both sides.",
        tables=(Table("Tasks by bundle", COLUMNS, lines, tall=True),),
        notes=tuple(_notes(rows)),
    )


def _line(row: TaskRow) -> tuple[Cell, ...]:
    shots = f", {row.num_fewshot} examples" if row.num_fewshot else ""
    better = {True: "higher is better", False: "lower is better", None: ""}
    through = "" if row.filtered == "none" else f" ({row.filtered})"
    ends = interval(Estimate(row.value, row.low, row.high), _DECIMALS)
    return (
        Cell(row.task, detail=f"version {row.task_version}{shots}"),
        Cell(f"{row.metric}{through}", detail=better[row.higher_is_better]),
        Cell(row.model, detail=row.bundle),
        Cell(row.engine),
        Cell(row.configuration),
        Cell(rounded(row.value, _DECIMALS), row.kind, ends, order=row.value),
        Cell(str(row.samples), order=row.samples),
        _difference(row),
        _flips(row),
    )


def _difference(row: TaskRow) -> Cell:
    if row.change is None:
        what = "the reference" if row.configuration.startswith("float") else "no float to pair with"
        return Cell(what, muted=True)
    found = row.change.difference
    ends = f"{found.low:+.{_DECIMALS}f} – {found.high:+.{_DECIMALS}f}"
    return Cell(
        f"{found.value:+.{_DECIMALS}f}",
        row.kind,
        f"{ends} to {row.change.reference}",
        _verdict(row.higher_is_better, found.low, found.high),
        order=found.value,
    )


def _verdict(higher_is_better: bool | None, low: float, high: float) -> str:
    if low <= 0 <= high:
        return "no evidence of a difference"
    if higher_is_better is None:
        return "differs"
    return "better" if (low > 0) == higher_is_better else "worse"


def _flips(row: TaskRow) -> Cell:
    turned = row.change.flips if row.change is not None else None
    if turned is None:
        return Cell("")
    count = turned.gained + turned.lost
    detail = f"{turned.gained} turn right, {turned.lost} wrong; p {turned.p_value:.2g}"
    return Cell(str(count), row.kind, detail, order=count)


def _notes(rows: Sequence[TaskRow]) -> Iterator[Note]:
    yield Note(
        "Flips are items that one side has right and the other wrong; p is McNemar's exact "
        "probability of so uneven a count."
    )
    items: dict[str, set[str]] = {}
    for row in rows:
        items.setdefault(row.task, set()).add(row.items_sha256)
    for task, found in items.items():
        if len(found) > 1:
            yield Note(f"{task}: not all lines are of the same items, and they do not compare.")
    cut = {(r.task, r.bundle, r.truncated, r.most_tokens) for r in rows if r.truncated}
    for task, bundle, count, most in sorted(cut):
        yield Note(f"{task}: {count} contexts of {bundle} were cut on the left to {most} tokens.")
