"""The chart of a load test: latency percentiles over what is answered per second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import altair as alt

from deploy.reporting.chart_style import by_role, finished, shape_by_role

_HEIGHT = 300


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One percentile of one server at one rate; ms, answers per second."""

    label: str
    role: str
    percentile: str
    throughput: float
    value: float
    low: float
    high: float
    shown: str


def load_chart(
    points: Sequence[LoadPoint], *, objective_ms: float, description: str
) -> dict[str, Any]:
    """Return lines of percentiles with intervals as bars, and the objective as a dashed line.

    Solid lines are the 99th percentile, dotted ones the median; the axis of time is logarithmic.

    Args:
        points: In order of rate within each server and percentile.
        objective_ms: What the 99th percentile may be.
        description: Read out in place of the picture.
    """
    base = alt.Chart(alt.InlineData(values=[asdict(point) for point in points]))
    x = alt.X("throughput:Q", title="answered per second", axis=alt.Axis(tickCount=5))
    scale = alt.Scale(type="log")
    y = alt.Y("value:Q", title="latency, ms", scale=scale, axis=alt.Axis(tickCount=6))
    detail = alt.Detail(["label:N", "percentile:N"])
    dashes = alt.StrokeDash(
        "percentile:N", scale=alt.Scale(domain=["p99", "p50"], range=[[1, 0], [2, 3]]), legend=None
    )
    lines = base.mark_line(strokeWidth=1.5).encode(
        x=x, y=y, color=by_role(), detail=detail, strokeDash=dashes, order="throughput:Q"
    )
    bars = base.mark_rule(strokeWidth=1.5).encode(
        x=x, y=alt.Y("low:Q", title="latency, ms", scale=scale), y2="high:Q", color=by_role()
    )
    dots = base.mark_point(size=60, filled=True).encode(
        x=x,
        y=y,
        color=by_role(),
        shape=shape_by_role(),
        tooltip=[
            alt.Tooltip("label:N", title="server"),
            alt.Tooltip("percentile:N", title="percentile"),
            alt.Tooltip("shown:N", title="latency"),
            alt.Tooltip("throughput:Q", title="answered per second", format=".4"),
        ],
    )
    limit = alt.Chart(alt.InlineData(values=[{"objective": objective_ms}]))
    rule = limit.mark_rule(strokeDash=[3, 3], color="var(--muted)").encode(
        y=alt.Y("objective:Q", scale=scale, title="latency, ms")
    )
    return finished(alt.layer(rule, lines, bars, dots), _HEIGHT, description)
