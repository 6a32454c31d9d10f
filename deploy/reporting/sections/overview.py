"""The table at the top: one line per model and engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from deploy.profiling.results import Row
from deploy.profiling.summary import Comparison, RowFigures
from deploy.reporting.document import Cell, Column, Note, Section, Table
from deploy.reporting.figures import (
    KIND_MEANINGS,
    accuracy_cell,
    coverage_cell,
    direction,
    float_with_accuracy,
    headline_metric,
    latency_cell,
    members,
    missing,
    shape_text,
    speed_up_cell,
)

COLUMNS = (
    Column("Model"),
    Column("Engine"),
    Column("metric", "Accuracy"),
    Column("float", "Accuracy", numeric=True),
    Column("Q/DQ in FP32", "Accuracy", numeric=True),
    Column("INT8", "Accuracy", numeric=True),
    Column("fastest float", "Latency, p50", numeric=True),
    Column("INT8", "Latency, p50", numeric=True),
    Column("simulated", "Speed-up", numeric=True),
    Column("measured", "Speed-up", numeric=True),
    Column("INT8 MAC coverage", numeric=True),
)


def section(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Section:
    """Return the overview: float, simulated and measured side by side."""
    lines = tuple(_line(c, _distinction(c, comparisons)) for c in comparisons)
    return Section(
        title="Simulated and measured",
        order=10,
        lead="One line per model and engine. Under each latency and each speed-up stands its "
        "95 % interval.",
        tables=(Table("Float, simulated and measured", COLUMNS, lines, stacked=True),),
        notes=_notes(rows, comparisons),
    )


def _distinction(comparison: Comparison, comparisons: Sequence[Comparison]) -> str:
    """Return what tells a line from others of its model and engine: bundle, else session."""
    alike = [c for c in comparisons if (c.model, c.engine) == (comparison.model, comparison.engine)]
    if len(alike) == 1:
        return ""
    same = sum(c.bundle == comparison.bundle for c in alike)
    session = f"session {comparison.rows[0].row.session}"
    return comparison.bundle if same == 1 else f"{comparison.bundle}, {session}"


def _line(comparison: Comparison, distinction: str) -> tuple[Cell, ...]:
    rows = [figures.row for figures in members(comparison)]
    metric = headline_metric(rows)
    floating, simulated, int8 = comparison.fastest_float, comparison.simulated, comparison.int8
    if floating is None:  # none was timed; one that was built still tells why
        floating = next(iter(comparison.floats), None)
    single = next((f for f in comparison.floats if f.row.precision == "fp32"), None)
    return (
        Cell(comparison.model, detail=_provenance(rows, distinction)),
        Cell(comparison.engine, detail=next(filter(None, map(shape_text, rows)), "")),
        Cell(metric, detail=direction(metric)) if metric else missing(None, rows),
        accuracy_cell(float_with_accuracy(comparison, metric), metric, rows),
        accuracy_cell(simulated.row if simulated else None, metric, rows),
        accuracy_cell(int8.row if int8 else None, metric, rows),
        latency_cell(floating, rows, named=True),
        latency_cell(int8, rows),
        speed_up_cell(comparison.simulated_speed_up, single, simulated, rows),
        replace(
            speed_up_cell(comparison.measured_speed_up, floating, int8, rows),
            alternatives=tuple(_other_baselines(comparison, int8, rows)),
        ),
        coverage_cell(comparison.coverage, comparison.coverage_kind),
    )


def _other_baselines(
    comparison: Comparison, int8: RowFigures | None, rows: Sequence[Row]
) -> Iterator[tuple[str, Cell]]:
    """Yield the speed-up against each float configuration, by its name."""
    for figures in comparison.floats:
        ratio = comparison.speed_ups.get(figures.row.label)
        if ratio is not None:
            cell = speed_up_cell(ratio, figures, int8, rows)
            detail = f"{cell.detail} against {figures.row.label}"
            yield figures.row.label, replace(cell, detail=detail)


def _provenance(rows: Sequence[Row], distinction: str) -> str:
    """Attention and calibration; float rows may not know the latter, so ask the last row."""
    if not rows:
        return ""
    row = rows[-1]
    parts = [distinction, f"{row.attention} attention", row.calibration]
    return " · ".join(part for part in parts if part)


def _notes(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> tuple[Note, ...]:
    notes = [Note(meaning, kind) for kind, meaning in KIND_MEANINGS.items()]
    notes.append(
        Note(
            "Simulated speed-up = FP32 float ÷ the Q/DQ graph in FP32 arithmetic on the same "
            "engine. Measured speed-up = the engine's fastest float precision ÷ INT8. Both are "
            "ratios of medians; an interval that includes 1 is no evidence of a difference."
        )
    )
    notes += [Note(f"Note: {text}.") for text in dict.fromkeys(r.note for r in rows if r.note)]
    left = len(rows) - sum(len(members(comparison)) for comparison in comparisons)
    if left:
        notes.append(
            Note(
                f"{left} of {len(rows)} rows stand only under Latency and Accuracy: a line here "
                "shows one Q/DQ and one INT8 configuration."
            )
        )
    return tuple(notes)
