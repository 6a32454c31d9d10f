"""Figures to the text people read; no arithmetic here, only rounding and wording."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from deploy.profiling.results import Accuracy, Coverage, Row
from deploy.profiling.statistics import Estimate
from deploy.profiling.summary import Comparison, RowFigures, headline_accuracy
from deploy.reporting.document import Cell, Column
from trueint8.kinds import Kind

NOT_RUN = "not run here"
ABSENT = "not in these results"
UNRECORDED = "not recorded"
ONE_ROUND = "one round, no interval"

SUBJECT = (Column("Model"), Column("Engine"), Column("Configuration"))
"""Headings of :func:`subject`."""

Verdict = Literal["faster", "slower", "no evidence of a difference"]
NO_EVIDENCE: Verdict = "no evidence of a difference"

KIND_MEANINGS = {
    Kind.MEASURED: "an engine ran, here.",
    Kind.SIMULATED: "quantized values, float arithmetic: the Q/DQ graph executed in FP32.",
    Kind.PREDICTED: "computed from a model of the hardware.",
    Kind.BUILT: "an engine was compiled for hardware that is not here; nothing was timed.",
}

_LOWER_IS_BETTER = frozenset({"loss", "perplexity"})
_METRIC_DECIMALS = {"loss": 4, "perplexity": 3, "accuracy": 4, "cosine": 5}


def lower_is_better(metric: str) -> bool:
    """Say which way the metric is better."""
    return metric in _LOWER_IS_BETTER


def direction(metric: str) -> str:
    """Return which way the metric is better, in words."""
    return "lower is better" if lower_is_better(metric) else "higher is better"


def rounded(value: float, decimals: int) -> str:
    """Return the value with a fixed number of decimals; very large ones with an exponent."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.4e}" if abs(value) >= 1e7 else f"{value:.{decimals}f}"


def ms_decimals(value_ms: float) -> int:
    """Return how many decimals show a latency with three to four significant digits."""
    if value_ms >= 100:
        return 1
    if value_ms >= 1:
        return 2
    return 3 if value_ms >= 0.1 else 4


def interval(estimate: Estimate, decimals: int) -> str:
    """Return both ends of the 95 % interval."""
    return f"{rounded(estimate.low, decimals)} – {rounded(estimate.high, decimals)}"


def verdict(estimate: Estimate) -> Verdict:
    """Return what the interval of a speed-up allows one to say."""
    if estimate.low > 1:
        return "faster"
    return "slower" if estimate.high < 1 else NO_EVIDENCE


def ratio_kind(baseline: Row, candidate: Row) -> Kind:
    """Return the kind of a ratio: MEASURED only where both sides are."""
    return candidate.kind if baseline.kind is Kind.MEASURED else baseline.kind


def configuration(row: Row) -> str:
    """Return the row's label, with the precision of the rest where that is another float."""
    mixed = row.precision == "int8" and row.rest != "fp32"
    return f"{row.label} + {row.rest.upper()}" if mixed else row.label


def subject(row: Row) -> tuple[Cell, Cell, Cell]:
    """Return the cells that name a row in tables of all configurations."""
    return Cell(row.model, detail=row.bundle), Cell(row.engine), Cell(configuration(row))


def missing(row: Row | None, group: Sequence[Row]) -> Cell:
    """Return the cell for a figure that is not there, saying why.

    Args:
        row: The row that should have had it; None if there is no such row.
        group: All rows of that model and engine.
    """
    asked = [row] if row is not None else group
    if asked and all(other.kind is Kind.BUILT for other in asked):
        return Cell(NOT_RUN, muted=True)
    return Cell(UNRECORDED if row is not None else ABSENT, muted=True)


def latency_cell(
    figures: RowFigures | None, group: Sequence[Row], *, unit: str = " ms", named: bool = False
) -> Cell:
    """Return the p50 with its interval, after the configuration's name where asked."""
    if figures is None or figures.median_ms is None:
        return missing(figures.row if figures else None, group)
    median = figures.median_ms
    decimals = ms_decimals(median.value)
    name = f"{configuration(figures.row)} " if named else ""
    return Cell(
        f"{name}{rounded(median.value, decimals)}{unit}",
        figures.row.kind,
        ONE_ROUND if one_round(figures.row) else interval(median, decimals),
        order=median.value,
    )


def ratio_decimals(ratio: Estimate) -> int:
    """Return how many decimals show a ratio: an end that rounds to 1.00 would hide its side."""
    ends = {f"{ratio.low:.2f}", f"{ratio.high:.2f}"}
    return 3 if "1.00" in ends or len(ends) == 1 else 2


def speed_up_cell(
    ratio: Estimate | None,
    baseline: RowFigures | None,
    candidate: RowFigures | None,
    group: Sequence[Row],
) -> Cell:
    """Return a speed-up with its interval and verdict."""
    if ratio is None or baseline is None or candidate is None:
        untimed = baseline if candidate is not None and candidate.median_ms else candidate
        return missing(untimed.row if untimed else None, group)
    decimals = ratio_decimals(ratio)
    return Cell(
        f"{rounded(ratio.value, decimals)}×",
        ratio_kind(baseline.row, candidate.row),
        ONE_ROUND if one_round(candidate.row) else interval(ratio, decimals),
        "" if one_round(candidate.row) else verdict(ratio),
        order=ratio.value,
    )


def one_round(row: Row) -> bool:
    """Resampling whole rounds of one yields that round: an interval of no width."""
    return row.latency is not None and len(row.latency.rounds_ns) == 1


def accuracy_text(figure: Accuracy) -> str:
    """Return the metric's value in the unit it is stored in."""
    return metric_text(figure.metric, figure.value)


def metric_text(metric: str, value: float) -> str:
    """Return a value of a metric."""
    return rounded(value, _METRIC_DECIMALS[metric])


def accuracy_ends(figure: Accuracy) -> str:
    """Return the metric's 95 % interval, or "" where none was recorded."""
    if figure.low is None or figure.high is None:
        return ""
    decimals = _METRIC_DECIMALS[figure.metric]
    return f"{rounded(figure.low, decimals)} – {rounded(figure.high, decimals)}"


def accuracy_of(row: Row | None, metric: str) -> Accuracy | None:
    """Return the row's figure of one metric."""
    if row is None:
        return None
    return next((figure for figure in row.accuracy if figure.metric == metric), None)


def accuracy_cell(row: Row | None, metric: str | None, group: Sequence[Row]) -> Cell:
    """Return the row's figure of one metric, with the configuration below it."""
    figure = accuracy_of(row, metric) if metric else None
    if row is None or figure is None:
        return missing(row, group)
    return Cell(accuracy_text(figure), row.kind, configuration(row), order=figure.value)


def coverage_cell(coverage: Coverage | None, kind: Kind | None) -> Cell:
    """Return INT8 MAC coverage, with the matmuls behind it."""
    if kind is None:
        return Cell(ABSENT, muted=True)
    if coverage is None:
        return Cell("unknown", muted=True, detail="the graph holds operators not counted")
    of, noun = coverage.weight_matmuls, "weight matmuls"
    if coverage.int8_matmuls > of:  # attention's own matmuls run in INT8 as well
        of, noun = coverage.matmuls, "matmuls"
    share, detail = coverage.share, f"{coverage.int8_matmuls} of {of} {noun}"
    return Cell(f"{100 * share:.1f} %", kind, detail, order=share)


def members(comparison: Comparison) -> list[RowFigures]:
    """Return every configuration of a comparison: floats, simulated, INT8."""
    others = [f for f in (comparison.simulated, comparison.int8) if f is not None]
    return [*comparison.floats, *others]


def headline_metric(rows: Sequence[Row]) -> str | None:
    """Return the metric tables show: that of the first row which has one."""
    headlines = (headline_accuracy(row) for row in rows)
    return next((figure.metric for figure in headlines if figure), None)


def role(row: Row) -> str:
    """Return what a row is to a chart: a float, the simulation, or INT8."""
    if row.kind is Kind.SIMULATED:
        return "Q/DQ"
    return "INT8" if row.precision == "int8" else "float"


def unique_labels(rows: Sequence[Row]) -> list[str]:
    """Return one label per row: configuration and kind on two lines, numbered if repeated."""
    labels: list[str] = []
    for row in rows:
        name, count = configuration(row), 1
        while (label := f"{name}\n{row.kind}") in labels:
            count += 1
            name = f"{configuration(row)} #{count}"
        labels.append(label)
    return labels


def group_title(comparison: Comparison) -> str:
    """Return the name of a comparison: bundle, attention variant and engine."""
    found = members(comparison)
    attention = f" · {found[0].row.attention}" if found else ""
    return f"{comparison.bundle}{attention} on {comparison.engine}"


def float_with_accuracy(comparison: Comparison, metric: str | None) -> Row | None:
    """Return the float row accuracy is held against: FP32 where it has the metric."""
    rows = [f.row for f in comparison.floats]
    having = [row for row in rows if metric and accuracy_of(row, metric)]
    ranked = sorted(having or rows, key=lambda row: row.precision != "fp32")
    return ranked[0] if ranked else None


def shape_text(row: Row) -> str:
    """Return batch × sequence, threads, and whether there were CUDA graphs."""
    if row.latency is None:
        return ""
    threads = "thread" if row.latency.threads == 1 else "threads"
    graphs = {None: "", True: " · CUDA graphs", False: " · no CUDA graphs"}[row.cuda_graph]
    amount = f"{row.latency.batch} × {row.latency.sequence} tokens"
    return f"{amount} · {row.latency.threads} {threads}{graphs}"
