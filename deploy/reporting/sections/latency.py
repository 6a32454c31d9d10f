"""How long one call takes: every configuration of every model on every engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deploy.profiling.results import Row
from deploy.profiling.statistics import Estimate, runs_needed
from deploy.profiling.summary import PERCENTILES, Comparison, RowFigures
from deploy.reporting.charts import Mark, Strip, bar_chart, strip_chart
from deploy.reporting.document import Cell, Chart, Column, Note, Section, Table
from deploy.reporting.figures import (
    SUBJECT,
    configuration,
    group_title,
    interval,
    latency_cell,
    members,
    missing,
    ms_decimals,
    role,
    rounded,
    subject,
    unique_labels,
)
from trueint8.kinds import Kind

COLUMNS = (
    *SUBJECT,
    Column("p50", "Latency, ms", numeric=True),
    *(Column(f"p{q}", "Latency, ms", numeric=True) for q in PERCENTILES),
    Column("sequences/s", "Throughput", numeric=True),
    Column("batch × tokens", "Input", numeric=True),
    Column("Threads", numeric=True),
    Column("Samples", numeric=True),
)

_BINS = 48


def section(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Section:
    """Return charts of p50 with intervals, and the table of all percentiles."""
    del rows
    figures = [figures for comparison in comparisons for figures in comparison.rows]
    return Section(
        title="Latency",
        order=30,
        lead="One inference call, host clock, after warm-up. Bars are p50 with the 95 % interval; "
        "a dashed outline is SIMULATED. Charts of one bundle share their axis. Strips are all "
        "samples by their share, each divided by its configuration's p50, from the 1st to the "
        "99th percentile.",
        charts=tuple(_charts(comparisons)),
        tables=(
            Table("Latency of every configuration", COLUMNS, tuple(map(_line, figures)), tall=True),
        ),
        notes=_notes(figures),
    )


def _charts(comparisons: Sequence[Comparison]) -> list[Chart]:
    upper: dict[str, float] = {}
    for comparison in comparisons:
        for figures in members(comparison):
            high = figures.median_ms.high if figures.median_ms else 0.0
            upper[comparison.bundle] = max(upper.get(comparison.bundle, 0.0), high)
    timed = [c for c in comparisons if any(figures.median_ms for figures in members(c))]
    return [
        chart
        for comparison in timed
        for chart in (_chart(comparison, upper[comparison.bundle]), _distribution(comparison))
    ]


def _distribution(comparison: Comparison) -> Chart:
    timed = [figures for figures in members(comparison) if figures.median_ms]
    shares = [_relative(figures) for figures in timed]
    domain = (
        min(float(np.percentile(times, 1)) for times in shares),
        max(float(np.percentile(times, 99)) for times in shares),
    )
    edges = np.linspace(*domain, _BINS + 1)
    labels = unique_labels([figures.row for figures in timed])
    strips = [
        Strip(label, role(figures.row), _bins(times, edges), round(float(edges[1] - edges[0]), 4))
        for figures, label, times in zip(timed, labels, shares, strict=True)
    ]
    said = "; ".join(
        f"{configuration(f.row)} ({f.row.kind}) from {np.percentile(times, 1):.2f} to "
        f"{np.percentile(times, 99):.2f}"
        for f, times in zip(timed, shares, strict=True)
    )
    title = f"{group_title(comparison)}: distribution"
    description = (
        f"Strips of all samples divided by their p50, {title}; 1st to 99th percentile: {said}."
    )
    spec = strip_chart(strips, axis_title="sample ÷ p50", domain=domain, description=description)
    return Chart(title, description, spec, comparison.model, comparison.engine)


def _bins(times: np.ndarray, edges: np.ndarray) -> list[tuple[float, float]]:
    """Return where every bin with samples begins, and its share of them."""
    shares = np.histogram(times, edges)[0] / len(times)
    found = zip(edges[:-1].round(4).tolist(), shares.round(4).tolist(), strict=True)
    return [(at, share) for at, share in found if share]


def _relative(figures: RowFigures) -> np.ndarray:
    """Return all samples of a row divided by its p50."""
    assert figures.row.latency is not None and figures.median_ms is not None
    pooled = np.concatenate([np.asarray(r, np.float64) for r in figures.row.latency.rounds_ns])
    return pooled / (1e6 * figures.median_ms.value)


def _chart(comparison: Comparison, upper: float) -> Chart:
    timed = [figures for figures in members(comparison) if figures.median_ms]
    labels = unique_labels([figures.row for figures in timed])
    marks = [_mark(figures, label) for figures, label in zip(timed, labels, strict=True)]
    title = group_title(comparison)
    said = "; ".join(
        f"{configuration(f.row)} ({f.row.kind}) {m.shown}, interval {m.interval}"
        for f, m in zip(timed, marks, strict=True)
    )
    description = f"Bar chart of median latency, {title}: {said}."
    spec = bar_chart(marks, axis_title="p50, ms", upper=upper, description=description)
    return Chart(title, description, spec, comparison.model, comparison.engine)


def _mark(figures: RowFigures, label: str) -> Mark:
    median = figures.median_ms
    assert median is not None
    decimals = ms_decimals(median.value)
    return Mark(
        label=label,
        kind=figures.row.kind,
        role=role(figures.row),
        value=median.value,
        shown=f"{rounded(median.value, decimals)} ms",
        low=median.low,
        high=median.high,
        interval=f"{interval(median, decimals)} ms",
    )


def _line(figures: RowFigures) -> tuple[Cell, ...]:
    row = figures.row
    latency = row.latency
    if latency is None:
        gap = missing(row, [row])
        gaps = [gap] * (2 + len(PERCENTILES))
        return (*subject(row), *gaps, Cell(""), Cell(""), Cell("0"))
    samples, rate = sum(map(len, latency.rounds_ns)), figures.throughput_per_s or 0.0
    return (
        *subject(row),
        latency_cell(figures, [row], unit=""),
        *(_percentile(q, figures.percentiles_ms[q], row.kind) for q in PERCENTILES),
        Cell(rounded(rate, 1), row.kind, order=rate),
        Cell(f"{latency.batch} × {latency.sequence}"),
        Cell(str(latency.threads), order=latency.threads),
        Cell(str(samples), detail=f"in {len(latency.rounds_ns)} rounds", order=samples),
    )


def _percentile(percent: int, found: Estimate | None, kind: Kind) -> Cell:
    if found is None:
        return Cell(f"takes {runs_needed(percent)} samples", muted=True)
    decimals = ms_decimals(found.value)
    detail = interval(found, decimals)
    return Cell(rounded(found.value, decimals), kind, detail=detail, order=found.value)


def _notes(figures: Sequence[RowFigures]) -> tuple[Note, ...]:
    notes = [Note("Sequences per second are batch ÷ p50, of one call at a time.")]
    for row in (f.row for f in figures):
        if row.note:
            notes.append(Note(f"{row.model}, {row.engine}, {configuration(row)}: {row.note}"))
    return tuple(notes)
