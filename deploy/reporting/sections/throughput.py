"""What engines give when batches and several requests run at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.profiling.rates import samples_per_s, throughput_ratio
from deploy.profiling.results import Row, Throughput
from deploy.profiling.summary import Comparison
from deploy.reporting.document import Cell, Column, Note, Section, Table
from deploy.reporting.figures import (
    SUBJECT,
    configuration,
    interval,
    ratio_decimals,
    ratio_kind,
    rounded,
    subject,
    verdict,
)

COLUMNS = (
    *SUBJECT,
    Column("Batch", numeric=True),
    Column("Streams", numeric=True),
    Column("sequences/s", "Throughput", numeric=True),
    Column("÷ fastest float", "Throughput", numeric=True),
    Column("Rounds", numeric=True),
)
Held = tuple[Row, Throughput]


def section(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Section | None:
    """Return one line per configuration, batch and number of streams; None without any."""
    if not any(row.throughput for row in rows):
        return None
    lines = tuple(line for comparison in comparisons for line in _lines(comparison))
    return Section(
        title="Throughput",
        order=32,
        lead="Sequences per second while so many requests of a batch ran at a time: the median "
        "over interleaved rounds. Under each stands its 95 % interval; a ratio draws the same "
        "rounds on both sides, and is above 1 where INT8 gives more.",
        tables=(Table("Throughput by batch and streams", COLUMNS, lines, tall=True, brief=True),),
        notes=(
            Note(
                "Measured apart from latency, in processes of their own, with as many threads for "
                "all streams together. The float that gives most is looked for anew under each "
                "batch and number of streams."
            ),
        ),
    )


def _lines(comparison: Comparison) -> Iterator[tuple[Cell, ...]]:
    demands: dict[tuple[int, int], list[Held]] = {}
    for figures in comparison.rows:
        for held in figures.row.throughput:
            demands.setdefault((held.batch, held.streams), []).append((figures.row, held))
    for sides in demands.values():
        floats = [side for side in sides if side[0].graph == "float"]
        best = max(floats, key=lambda side: samples_per_s(side[1]).value, default=None)
        for row, held in sides:
            found = samples_per_s(held)
            yield (
                *subject(row),
                Cell(str(held.batch), order=held.batch),
                Cell(str(held.streams), order=held.streams),
                Cell(rounded(found.value, 1), row.kind, interval(found, 1), order=found.value),
                _ratio(best, (row, held)),
                Cell(str(len(held.rounds)), detail=f"in {held.launches} launches"),
            )


def _ratio(baseline: Held | None, candidate: Held) -> Cell:
    if baseline is None:
        return Cell("no float was timed", muted=True)
    if candidate[1] is baseline[1]:
        return Cell("1", baseline[0].kind, "the baseline", order=1.0)
    if candidate[0].graph == "float":
        return Cell("")
    ratio = throughput_ratio(baseline[1], candidate[1])
    decimals = ratio_decimals(ratio)
    return Cell(
        f"{rounded(ratio.value, decimals)}×",
        ratio_kind(baseline[0], candidate[0]),
        f"{interval(ratio, decimals)} against {configuration(baseline[0])}",
        verdict(ratio),
        order=ratio.value,
    )
