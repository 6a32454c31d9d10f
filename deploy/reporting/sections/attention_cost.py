"""What each attention variant costs: fused or not, INT8 share, latency beside vanilla in float."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.profiling.results import Row
from deploy.profiling.summary import Comparison, RowFigures
from deploy.profiling.variants import VANILLA, relative_latency, vanilla_beside
from deploy.reporting.document import Cell, Column, Note, Section, Table
from deploy.reporting.figures import (
    NOT_RUN,
    ONE_ROUND,
    UNRECORDED,
    configuration,
    coverage_cell,
    interval,
    one_round,
    ratio_decimals,
    ratio_kind,
    rounded,
)
from trueint8.kinds import Kind

COLUMNS = (
    Column("Attention"),
    Column("Model"),
    Column("Engine"),
    Column("Configuration"),
    Column("Fused attention"),
    Column("INT8 MAC coverage", numeric=True),
    Column("p50 ÷ vanilla float", numeric=True),
)


def section(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Section | None:
    """Return the cost of every variant on every engine; None where there is one variant only."""
    if len({row.attention for row in rows}) == 1:
        return None
    return Section(
        title="Cost of attention variants",
        order=45,
        lead="Each engine's configurations by attention variant: whether one kernel executes an "
        "attention whole, what share of the multiply-accumulates runs in INT8, and the latency "
        "relative to vanilla attention in that engine's fastest float. Above 1 is slower.",
        tables=(
            Table("Attention variants by engine", COLUMNS, tuple(_lines(comparisons)), tall=True),
        ),
        notes=_notes(comparisons),
    )


def _lines(comparisons: Sequence[Comparison]) -> Iterator[tuple[Cell, ...]]:
    engines = list(dict.fromkeys(c.engine for c in comparisons))
    for comparison in sorted(comparisons, key=lambda c: engines.index(c.engine)):
        vanilla = vanilla_beside(comparison, comparisons)
        for figures in comparison.rows:
            row = figures.row
            if row.kind is Kind.SIMULATED:
                continue
            yield (
                Cell(row.attention),
                Cell(row.model, detail=row.bundle),
                Cell(row.engine),
                Cell(configuration(row)),
                _fused(row),
                coverage_cell(row.coverage, row.kind) if row.graph == "qdq" else Cell(""),
                _relative(figures, vanilla),
            )


def _fused(row: Row) -> Cell:
    if row.attentions is None or row.fused_attentions is None:
        return Cell(UNRECORDED, muted=True)
    if row.attentions == 0:
        return Cell("no attention known", muted=True)
    word = "in part" if row.fused_attentions else "no"
    if row.fused_attentions == row.attentions:
        word = "yes"
    share = row.fused_attentions / row.attentions
    return Cell(word, row.kind, f"{row.fused_attentions} of {row.attentions}", order=share)


def _relative(figures: RowFigures, vanilla: Comparison | None) -> Cell:
    if figures.row.latency is None:
        return Cell(NOT_RUN if figures.row.kind is Kind.BUILT else UNRECORDED, muted=True)
    if vanilla is None or vanilla.fastest_float is None:
        return Cell("no vanilla to compare with", muted=True)
    ratio = relative_latency(figures, vanilla)
    if ratio is None:
        return Cell("not comparable", muted=True, detail="the machine was under load")
    baseline = vanilla.fastest_float.row
    if figures.row is baseline:
        return Cell("1", baseline.kind, "the baseline", order=1.0)
    decimals = ratio_decimals(ratio)
    single = one_round(figures.row) or one_round(baseline)
    ends = ONE_ROUND if single else interval(ratio, decimals)
    return Cell(
        f"{rounded(ratio.value, decimals)}×",
        ratio_kind(baseline, figures.row),
        f"{ends} against {configuration(baseline)} of {baseline.bundle}",
        order=ratio.value,
    )


def _notes(comparisons: Sequence[Comparison]) -> tuple[Note, ...]:
    notes = [
        Note(
            "Bundles are timed one after the other: intervals of variants other than vanilla draw "
            "the rounds of both sides apart, and do not hold what changed on the machine between "
            "them. Where others took processor time there is no figure. Model size is not "
            "compared: only bundles of one architecture say what attention costs."
        )
    ]
    timed = [c for c in comparisons if c.fastest_float and c.rows[0].row.attention != VANILLA]
    if any(vanilla_beside(c, comparisons) is None for c in timed):
        notes.append(
            Note(
                "A variant without a vanilla model of the same machine and versions, engine, task, "
                "data, input shape and threads has no relative latency: profile both in one call."
            )
        )
    return tuple(notes)
