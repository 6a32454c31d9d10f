"""Accuracy against latency: which configurations no other beats in both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.profiling.results import Row
from deploy.profiling.summary import Comparison, headline_accuracy
from deploy.reporting.document import Cell, Chart, Column, Section, Table
from deploy.reporting.figures import (
    accuracy_text,
    configuration,
    direction,
    interval,
    latency_cell,
    lower_is_better,
    ms_decimals,
    role,
    rounded,
)
from deploy.reporting.pareto import Candidate, Tradeoff, tradeoffs
from deploy.reporting.pareto_chart import Spot, pareto_chart
from deploy.reporting.verdicts import change_text

COLUMNS = (
    Column("No.", numeric=True),
    Column("Model"),
    Column("Engine"),
    Column("Configuration"),
    Column("On the front"),
    Column("p50, ms", numeric=True),
    Column("Accuracy", numeric=True),
    Column("Change to FP32", numeric=True),
)


def section(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Section | None:
    """Return one chart and one table per data; None where no two configurations have both."""
    del rows
    found = tradeoffs(comparisons)
    if not found:
        return None
    return Section(
        title="Accuracy against latency",
        order=20,
        lead="MEASURED configurations with both figures on the same data. The "
        "numbered ones are the front: no other is at least as fast and as accurate in the digits "
        "shown, and better in one. The rest is dimmed. Better is left and up. Bars are 95 % "
        "intervals: of p50, and of the change to FP32 over the same sequences.",
        charts=tuple(map(_chart, found)),
        tables=tuple(_table(tradeoff) for tradeoff in found),
    )


def _chart(tradeoff: Tradeoff) -> Chart:
    numbers = {id(c): str(number) for number, c in enumerate(tradeoff.front, start=1)}
    spots = [_spot(candidate, numbers.get(id(candidate), "")) for candidate in tradeoff.candidates]
    said = "; ".join(
        f"{spot.number} {spot.name}, {spot.x_shown}, {spot.y_shown}"
        for spot in spots
        if spot.on_front
    )
    description = (
        f"Chart of {tradeoff.metric} against median latency, {tradeoff.name}: "
        f"{len(tradeoff.front)} of {len(spots)} configurations are on the front, all MEASURED: "
        f"{said}."
    )
    spec = pareto_chart(
        spots,
        x_title="p50, ms",
        y_title=f"{tradeoff.metric} ({direction(tradeoff.metric)})",
        y_down=lower_is_better(tradeoff.metric),
        description=description,
    )
    return Chart(tradeoff.name, description, spec)


def _spot(candidate: Candidate, number: str) -> Spot:
    row, latency = candidate.figures.row, candidate.latency_ms
    low, high = candidate.interval or (candidate.value, candidate.value)
    decimals = ms_decimals(latency.value)
    return Spot(
        name=f"{row.model}, {row.engine}, {configuration(row)}",
        role=role(row),
        number=number,
        x=latency.value,
        x_low=latency.low,
        x_high=latency.high,
        y=candidate.value,
        y_low=low,
        y_high=high,
        x_shown=f"{rounded(latency.value, decimals)} ms, interval {interval(latency, decimals)}",
        y_shown=f"{candidate.metric} {_text(candidate)}",
    )


def _table(tradeoff: Tradeoff) -> Table:
    return Table(
        f"Accuracy and latency: {tradeoff.name}", COLUMNS, tuple(_lines(tradeoff)), tall=True
    )


def _lines(tradeoff: Tradeoff) -> Iterator[tuple[Cell, ...]]:
    numbers = {id(c): number for number, c in enumerate(tradeoff.front, start=1)}
    for candidate in [*tradeoff.front, *(c for c in tradeoff.candidates if id(c) not in numbers)]:
        row, number = candidate.figures.row, numbers.get(id(candidate))
        yield (
            Cell(str(number or ""), order=number),
            Cell(row.model, detail=row.bundle),
            Cell(row.engine),
            Cell(configuration(row), detail=row.calibration),
            Cell("yes" if number else "no", muted=not number),
            latency_cell(candidate.figures, [row], unit=""),
            Cell(_text(candidate), row.kind, candidate.metric, order=candidate.value),
            _change(candidate),
        )


def _text(candidate: Candidate) -> str:
    accuracy = headline_accuracy(candidate.figures.row)
    assert accuracy is not None
    return accuracy_text(accuracy)


def _change(candidate: Candidate) -> Cell:
    row = candidate.figures.row
    if candidate.drop is None:
        baseline = row.graph == "float" and row.precision == "fp32"
        return Cell("the baseline" if baseline else "no interval recorded", muted=True)
    value, ends = change_text(candidate.metric, candidate.drop)
    return Cell(value, row.kind, ends, order=-candidate.drop.value)
