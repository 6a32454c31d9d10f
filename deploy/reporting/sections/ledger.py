"""Where the time goes: from what the hardware allows, part by part, to what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.ledger.record import Ledger, Part, SpeedUp, SpeedUpSource
from deploy.profiling.results import Row
from deploy.profiling.summary import Comparison
from deploy.reporting.document import Cell, Chart, Column, Note, Section, Table
from deploy.reporting.figures import configuration, ms_decimals, rounded
from deploy.reporting.waterfall_chart import Step, Tone, waterfall_chart
from trueint8.kinds import Kind

_ABOUT = (Column("Model"), Column("Engine"), Column("Configuration"))
PARTS = (
    *_ABOUT,
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
    *_ABOUT,
    *(
        Column(
            title,
            "To the fastest float" if source == _FASTEST else "Speed-up to FP32 by",
            numeric=True,
        )
        for source, title in _SOURCES.items()
    ),
)


def section(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Section:
    """Return a waterfall per configuration that has a ledger; else how to get one."""
    del comparisons
    having = [(row, row.ledger) for row in rows if row.ledger is not None]
    if not having:
        return Section(
            title="Where the time goes",
            order=40,
            lead="These results hold no ledger. It takes runs in which every kernel is timed: "
            "deploy ledger BUNDLE --into results.jsonl, and report again.",
        )
    return Section(
        title="Where the time goes",
        order=40,
        lead="From the ceiling (PREDICTED: every matmul at the machine's measured peak or "
        "bandwidth) over each part that has a name to the latency (MEASURED). What is left over "
        "has no cause.",
        charts=tuple(_chart(row, ledger) for row, ledger in having),
        tables=(
            Table("Parts of the latency", PARTS, tuple(_lines(having)), tall=True),
            Table("Speed-ups by source", SPEED_UPS, tuple(_speed_ups(having)), tall=True),
        ),
        notes=_notes(having),
    )


def _chart(row: Row, ledger: Ledger) -> Chart:
    decimals = ms_decimals(ledger.latency.value)
    steps = [_step("ceiling", "ceiling", Kind.PREDICTED, 0.0, ledger.ceiling_ms, decimals)]
    at = ledger.ceiling_ms
    for part in filter(_present, ledger.parts):
        steps.append(_step(part.name, "part", part.kind, at, at + part.ms, decimals))
        at += part.ms
    end = at + ledger.unexplained_ms
    steps.append(_step("unexplained", "unexplained", "", at, end, decimals))
    whole = _step("latency", "whole", Kind.MEASURED, 0.0, ledger.latency.value, decimals)
    title = f"{row.bundle} on {row.engine}, {configuration(row)}"
    said = "; ".join(f"{step.label} {step.shown}" for step in [*steps, whole])
    description = (
        f"Waterfall of latency, {title}, in ms: {said}. The ceiling is PREDICTED, the rest "
        "MEASURED."
    )
    spec = waterfall_chart([*steps, whole], axis_title="ms", description=description)
    return Chart(title, description, spec, row.model, row.engine)


def _present(part: Part) -> bool:
    """Leave out parts that this engine does not have at all."""
    return bool(part.kernels or part.ms)


def _step(
    label: str, tone: Tone, kind: Kind | str, start: float, end: float, decimals: int
) -> Step:
    whole = tone in ("ceiling", "whole")
    shown = rounded(end, decimals) if whole else f"{end - start:+.{decimals}f}"
    return Step(label, tone, str(kind), start, end, shown)


def _lines(having: Sequence[tuple[Row, Ledger]]) -> Iterator[tuple[Cell, ...]]:
    for row, ledger in having:
        whole = ledger.latency.value
        decimals, about = ms_decimals(whole), _names(row)
        empty = Cell("")
        yield (
            *about,
            Cell("ceiling"),
            *_time(ledger.ceiling_ms, whole, Kind.PREDICTED, decimals),
            *(empty, empty, empty),
            Cell(f"{ledger.precision} matmuls, {ledger.macs / 1e9:.3f} G MACs"),
        )
        for part in filter(_present, ledger.parts):
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
        yield (*_names(row), *(_ratio(found.get(source)) for source in _SOURCES))


def _ratio(found: SpeedUp | None) -> Cell:
    if found is None:
        return Cell("")
    timed = found.low is not None and found.high is not None
    ends = f"{found.low:.2f} – {found.high:.2f}" if timed else ""
    if found.source == _FASTEST:
        ends = f"{ends} to {found.baseline}"
    return Cell(f"{found.value:.2f}×", found.kind, ends, order=found.value)


def _names(row: Row) -> tuple[Cell, ...]:
    return Cell(row.model, detail=row.bundle), Cell(row.engine), Cell(configuration(row))


def _notes(having: Sequence[tuple[Row, Ledger]]) -> tuple[Note, ...]:
    notes = [
        Note(
            "A part is what its kernels took above their share of the ceiling; it is negative "
            "where they beat the probe. Parts without a kernel are left out."
        )
    ]
    for row, ledger in having:
        if ledger.not_found:
            notes.append(
                Note(
                    f"{row.model}, {row.engine}, {configuration(row)}: no kernel names "
                    f"{len(ledger.not_found)} matmuls, which are in no part of their own."
                )
            )
    return tuple(notes)
