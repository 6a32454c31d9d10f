"""Rows to the figures people read: per model and engine, float beside simulated beside INT8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.profiling.results import Accuracy, Coverage, Row
from deploy.profiling.scoring import Scores, drop
from deploy.profiling.statistics import Estimate, median_ms, percentile_ms, speed_up
from trueint8.kinds import Kind

PERCENTILES = (90, 95, 99)


@dataclass(frozen=True, slots=True)
class RowFigures:
    """What one row says about itself."""

    row: Row
    median_ms: Estimate | None
    percentiles_ms: Mapping[int, Estimate | None]
    """Of 90, 95 and 99 %; None where there are too few samples, empty where none was taken."""
    throughput_per_s: float | None
    """Sequences per second at the median: batch ÷ p50."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One model on one engine.

    ``measured_speed_up`` is the fastest float row ÷ the INT8 row;
    ``simulated_speed_up`` is the FP32 row ÷ the Q/DQ graph in FP32 arithmetic.
    Both are None where a side was not run here. ``speed_ups`` holds each float row ÷ the INT8
    row, by the float row's label; ``drop`` is what INT8 loses to FP32, as of
    :func:`deploy.profiling.scoring.drop`.
    """

    model: str
    bundle: str
    engine: str
    rows: list[RowFigures]
    floats: list[RowFigures]
    simulated: RowFigures | None
    int8: RowFigures | None
    fastest_float: RowFigures | None
    measured_speed_up: Estimate | None
    simulated_speed_up: Estimate | None
    speed_ups: Mapping[str, Estimate]
    drop: Estimate | None
    coverage: Coverage | None
    coverage_kind: Kind | None


def summarize(rows: Sequence[Row]) -> list[Comparison]:
    """Group rows by session, bundle and engine, in the order they appear."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.session, row.bundle_sha256, row.engine), []).append(row)
    return [_compare(group) for group in groups.values()]


def headline_accuracy(row: Row | None) -> Accuracy | None:
    """Return the row's first accuracy figure, the one tables show."""
    return row.accuracy[0] if row is not None and row.accuracy else None


def _compare(group: list[Row]) -> Comparison:
    figures = [_figures(row) for row in group]
    floats = [f for f in figures if f.row.graph == "float" and f.row.kind is Kind.MEASURED]
    simulated = next((f for f in figures if f.row.kind is Kind.SIMULATED), None)
    int8 = next((f for f in figures if f.row.precision == "int8"), None)
    timed = [f for f in floats if f.median_ms is not None]
    fastest = min(timed, key=lambda f: f.median_ms.value if f.median_ms else 0.0, default=None)
    single = next((f for f in timed if f.row.precision == "fp32"), None)
    ratios = {f.row.label: _ratio(f, int8) for f in timed}
    return Comparison(
        model=group[0].model,
        bundle=group[0].bundle,
        engine=group[0].engine,
        rows=figures,
        floats=floats,
        simulated=simulated,
        int8=int8,
        fastest_float=fastest,
        measured_speed_up=ratios.get(fastest.row.label) if fastest else None,
        simulated_speed_up=_ratio(single, simulated),
        speed_ups={label: ratio for label, ratio in ratios.items() if ratio is not None},
        drop=paired_drop(single, int8),
        coverage=int8.row.coverage if int8 else None,
        coverage_kind=int8.row.kind if int8 else None,
    )


def _figures(row: Row) -> RowFigures:
    if row.latency is None:
        return RowFigures(row, None, {}, None)
    rounds, launches = row.latency.rounds_ns, row.latency.launches
    median = median_ms(rounds, launches)
    return RowFigures(
        row=row,
        median_ms=median,
        percentiles_ms={q: percentile_ms(rounds, q, launches) for q in PERCENTILES},
        throughput_per_s=row.latency.batch / median.value * 1e3,
    )


def _ratio(baseline: RowFigures | None, candidate: RowFigures | None) -> Estimate | None:
    if baseline is None or candidate is None:
        return None
    if baseline.row.latency is None or candidate.row.latency is None:
        return None
    below, above = baseline.row.latency, candidate.row.latency
    return speed_up(below.rounds_ns, above.rounds_ns, below.launches)


def paired_drop(single: RowFigures | None, candidate: RowFigures | None) -> Estimate | None:
    """Return what a configuration loses to FP32; None where not both keep scores of one data."""
    sides = [
        f.row.scores for f in (single, candidate) if f is not None and f.row.scores is not None
    ]
    if len(sides) != 2 or sides[0].counts != sides[1].counts:
        return None
    return drop(*(Scores(s.metric, tuple(s.sums), tuple(s.counts)) for s in sides))
