"""Configurations by latency and accuracy, and which of them no other beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.profiling.results import Row
from deploy.profiling.statistics import Estimate
from deploy.profiling.summary import Comparison, RowFigures, headline_accuracy, paired_drop
from deploy.reporting.figures import lower_is_better, metric_text
from trueint8.kinds import Kind


@dataclass(frozen=True, slots=True)
class Candidate:
    """One MEASURED configuration with both figures."""

    figures: RowFigures
    metric: str
    value: float
    drop: Estimate | None
    """Against the bundle's FP32 on the same engine; None for FP32 itself, and without scores."""
    interval: tuple[float, float] | None
    """Where the metric would be at either end of the drop's interval."""

    @property
    def rounded(self) -> float:
        """The metric as it is shown: the same arithmetic on two engines differs by less."""
        return float(metric_text(self.metric, self.value))

    @property
    def latency_ms(self) -> Estimate:
        """The p50."""
        assert self.figures.median_ms is not None
        return self.figures.median_ms


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """Configurations that may be set beside each other, the fastest first."""

    name: str
    metric: str
    candidates: list[Candidate]
    front: list[Candidate]
    """Those that no other is as good as in both figures and better than in one."""


def tradeoffs(comparisons: Sequence[Comparison]) -> list[Tradeoff]:
    """Return the configurations of the same data, metric, input shape, threads and machine.

    A cosine is to a model's own float outputs, so its models are kept apart.
    """
    groups: dict[tuple[object, ...], list[Candidate]] = {}
    for comparison in comparisons:
        single = next((f for f in comparison.floats if f.row.precision == "fp32"), None)
        for figures in comparison.rows:
            found = _candidate(single, figures)
            if found is not None:
                groups.setdefault(_setting(found), []).append(found)
    return [_tradeoff(group) for group in groups.values() if len(group) > 1]


def _candidate(single: RowFigures | None, figures: RowFigures) -> Candidate | None:
    accuracy = headline_accuracy(figures.row)
    measured = figures.row.kind is Kind.MEASURED and figures.median_ms is not None
    if accuracy is None or not measured or not math.isfinite(accuracy.value):
        return None
    reference = headline_accuracy(single.row) if single is not None else None
    drop = paired_drop(single, figures) if figures is not single else None
    comparable = reference is not None and reference.metric == accuracy.metric
    if drop is None or reference is None or not comparable:
        return Candidate(figures, accuracy.metric, accuracy.value, None, None)
    ends = sorted(_shifted(accuracy.metric, reference.value, end) for end in (drop.low, drop.high))
    return Candidate(figures, accuracy.metric, accuracy.value, drop, (ends[0], ends[1]))


def _shifted(metric: str, reference: float, drop: float) -> float:
    """Return the metric after a drop, as :func:`deploy.profiling.scoring.drop` counts it."""
    return reference * (1 + drop / 100) if metric == "perplexity" else reference - drop / 100


def _setting(candidate: Candidate) -> tuple[object, ...]:
    row = candidate.figures.row
    assert row.latency is not None
    machine = str(row.environment.get("cpu", row.environment.get("hardware", "")))
    amount = (row.latency.batch, row.latency.sequence, row.latency.threads)
    model = row.model if candidate.metric == "cosine" else ""
    return (model, row.task, row.data, candidate.metric, machine, *amount)


def _tradeoff(group: list[Candidate]) -> Tradeoff:
    ordered = sorted(group, key=lambda c: c.latency_ms.value)
    rows = [c.figures.row for c in ordered]
    front = [c for c in ordered if not any(_beats(other, c) for other in ordered)]
    return Tradeoff(_name(rows), group[0].metric, ordered, front)


def _beats(one: Candidate, other: Candidate) -> bool:
    """Say whether one is as good in both figures and better in one."""
    sign = 1 if lower_is_better(one.metric) else -1
    gains = (
        other.latency_ms.value - one.latency_ms.value,
        sign * (other.rounded - one.rounded),
    )
    return min(gains) >= 0 and max(gains) > 0


def _name(rows: Sequence[Row]) -> str:
    models = list(dict.fromkeys(row.model for row in rows))
    few = ", ".join(models) if len(models) <= 3 else f"{len(models)} models"
    return f"{few} on {rows[0].data}"
