"""What quantization costs: every metric of every configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from deploy.profiling.results import Row
from deploy.profiling.summary import Comparison
from deploy.reporting.accuracy_table import accuracy_table
from deploy.reporting.charts import Mark, dot_chart
from deploy.reporting.document import Chart, Note, Section
from deploy.reporting.figures import (
    accuracy_of,
    accuracy_text,
    configuration,
    direction,
    float_with_accuracy,
    group_title,
    headline_metric,
    members,
    role,
    unique_labels,
)

_SMALLEST_SPAN = 0.02
"""Of the value: a narrower axis would blow up differences nobody needs to see."""


def section(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Section:
    """Return charts of the first metric, and the table of all."""
    return Section(
        title="Accuracy",
        order=35,
        lead="Float, the Q/DQ graph in float arithmetic (SIMULATED), and the INT8 engine, on the "
        "same data. The dashed line is the float figure; axes need not start at zero. Below each "
        "value of the table: its 95 % interval over sequences.",
        charts=tuple(_charts(comparisons)),
        tables=(accuracy_table(rows),),
        notes=(
            Note(
                "Lower is better for loss and perplexity; higher is better for accuracy and for "
                "cosine, the similarity to the float graph's output."
            ),
        ),
    )


def _charts(comparisons: Sequence[Comparison]) -> Iterator[Chart]:
    for comparison in comparisons:
        rows = [figures.row for figures in members(comparison)]
        metric = headline_metric(rows)
        if metric is None:
            continue
        shown = [row for row in rows if _finite(row, metric)]
        alike = [c for c in comparisons if c.bundle == comparison.bundle]
        values = [
            figure.value
            for other in alike
            for figures in members(other)
            if (figure := accuracy_of(figures.row, metric)) and math.isfinite(figure.value)
        ]
        if shown:
            yield _chart(comparison, shown, metric, _domain(values))


def _chart(
    comparison: Comparison, rows: list[Row], metric: str, domain: tuple[float, float]
) -> Chart:
    reference = float_with_accuracy(comparison, metric)
    marks = []
    for row, label in zip(rows, unique_labels(rows), strict=True):
        figure = accuracy_of(row, metric)
        assert figure is not None
        marks.append(Mark(label, row.kind, role(row), figure.value, accuracy_text(figure)))
    title = group_title(comparison)
    said = "; ".join(
        f"{configuration(r)} ({r.kind}) {m.shown}" for r, m in zip(rows, marks, strict=True)
    )
    description = f"Chart of {metric}, {direction(metric)}, {title}: {said}."
    float_figure = accuracy_of(reference, metric) if reference in rows else None
    spec = dot_chart(
        marks,
        axis_title=f"{metric} ({direction(metric)})",
        domain=domain,
        reference=float_figure.value if float_figure else None,
        description=description,
    )
    return Chart(title, description, spec, comparison.model, comparison.engine)


def _finite(row: Row, metric: str) -> bool:
    figure = accuracy_of(row, metric)
    return figure is not None and math.isfinite(figure.value)


def _domain(values: Sequence[float]) -> tuple[float, float]:
    """Return axis ends around the values, with room for the text on the right."""
    low, high = min(values), max(values)
    span = max(high - low, _SMALLEST_SPAN * max(abs(low), abs(high)), 1e-6)
    return low - 0.15 * span, low + 1.45 * span
