"""Parts of the latency and speed-ups by source, for the page and for a pull request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.ledger.record import Ledger, Part, SpeedUp, SpeedUpSource
from deploy.profiling.results import Row
from deploy.reporting.document import Cell, Column, Table
from deploy.reporting.figures import SUBJECT, ms_decimals, rounded, subject
from trueint8.kinds import Kind

PARTS = (
    *SUBJECT,
    Column("Part"),
    Column("ms", numeric=True),
    Column("share", numeric=True),
    Column("measured", "Which is, ms", numeric=True),
    Column("less ceiling", "Which is, ms", numeric=True),
    Column("Kernels", numeric=True),
    Column("Most of it"),
)
_SOURCES: dict[SpeedUpSource, str] = {
    "bits": "bits per value",
    "macs": "MACs and peaks",
    "bandwidth": "bytes and bandwidth",
    "ceiling": "ceilings",
    "simulated": "Q/DQ in FP32",
    "measured": "engine",
    "fastest float": "measured",
}
_FASTEST = "fastest float"
SPEED_UPS = (
    *SUBJECT,
    *(
        Column(
            title,
            "To the fastest float" if source == _FASTEST else "Speed-up to FP32 by",
            numeric=True,
        )
        for source, title in _SOURCES.items()
    ),
)


def ledgers(rows: Sequence[Row]) -> list[tuple[Row, Ledger]]:
    """Return the rows that have a ledger, each with it."""
    return [(row, row.ledger) for row in rows if row.ledger is not None]


def present(ledger: Ledger) -> list[Part]:
    """Leave out parts that this engine does not have at all."""
    return [part for part in ledger.parts if part.kernels or part.ms]


def ledger_tables(having: Sequence[tuple[Row, Ledger]]) -> tuple[Table, Table]:
    """Return the parts of each latency, and each configuration's speed-ups by source."""
    return (
        Table("Parts of the latency", PARTS, tuple(_lines(having)), tall=True),
        Table("Speed-ups by source", SPEED_UPS, tuple(_speed_ups(having)), tall=True),
    )


def _lines(having: Sequence[tuple[Row, Ledger]]) -> Iterator[tuple[Cell, ...]]:
    for row, ledger in having:
        whole = ledger.latency.value
        decimals, about = ms_decimals(whole), subject(row)
        empty = Cell("")
        yield (
            *about,
            Cell("ceiling"),
            *_time(ledger.ceiling_ms, whole, Kind.PREDICTED, decimals),
            *(empty, empty, empty),
            Cell(f"{ledger.precision} matmuls, {ledger.macs / 1e9:.3f} G MACs"),
        )
        for part in present(ledger):
            yield (
                *about,
                Cell(part.name),
                *_time(part.ms, whole, part.kind, decimals),
                Cell(rounded(part.measured_ms, decimals), part.kind, order=part.measured_ms),
                Cell(rounded(part.ceiling_ms, decimals), Kind.PREDICTED, order=part.ceiling_ms),
                Cell(str(part.kernels), order=part.kernels),
                Cell(part.detail),
            )
        yield (
            *about,
            Cell("unexplained"),
            *_time(ledger.unexplained_ms, whole, Kind.MEASURED, decimals),
            *(empty, empty, empty, empty),
        )
        ends = f"{rounded(ledger.latency.low, decimals)} – {rounded(ledger.latency.high, decimals)}"
        yield (
            *about,
            Cell("latency"),
            Cell(rounded(whole, decimals), Kind.MEASURED, ends, order=whole),
            Cell("100.0 %", Kind.MEASURED, order=1.0),
            *(empty, empty, empty, empty),
        )


def _time(ms: float, whole: float, kind: Kind, decimals: int) -> tuple[Cell, Cell]:
    share = ms / whole
    return (
        Cell(rounded(ms, decimals), kind, order=ms),
        Cell(f"{100 * share:.1f} %", kind, order=share),
    )


def _speed_ups(having: Sequence[tuple[Row, Ledger]]) -> Iterator[tuple[Cell, ...]]:
    for row, ledger in having:
        found = {ratio.source: ratio for ratio in ledger.speed_ups}
        if row.graph == "float" and row.precision == "fp32":
            continue  # it is what the others are held against
        yield (*subject(row), *(_ratio(found.get(source)) for source in _SOURCES))


def _ratio(found: SpeedUp | None) -> Cell:
    if found is None:
        return Cell("")
    timed = found.low is not None and found.high is not None
    ends = f"{found.low:.2f} – {found.high:.2f}" if timed else ""
    if found.source == _FASTEST:
        ends = f"{ends} to {found.baseline}"
    return Cell(f"{found.value:.2f}×", found.kind, ends, order=found.value)
