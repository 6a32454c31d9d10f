"""The chart of a sum: from the ceiling over every part to the latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import altair as alt

from deploy.reporting.chart_style import finished, of_kind
from trueint8.kinds import Kind

Tone = Literal["ceiling", "part", "unexplained", "whole"]

_TONES: dict[Tone, str] = {
    "ceiling": "var(--predicted-ink)",
    "part": "var(--series-simulated)",
    "unexplained": "var(--muted)",
    "whole": "var(--series-int8)",
}
_STEP = 24
_ROOM = 1.3


@dataclass(frozen=True, slots=True)
class Step:
    """One bar from where the one above ended."""

    label: str
    tone: Tone
    kind: str
    """Empty for what is left over."""
    start: float
    end: float
    shown: str


def waterfall_chart(steps: Sequence[Step], *, axis_title: str, description: str) -> dict[str, Any]:
    """Return floating horizontal bars, from top to bottom.

    Args:
        steps: Labels are unique.
        axis_title: Quantity and unit.
        description: Read out in place of the picture.
    """
    values = [{**asdict(step), "right": max(step.start, step.end)} for step in steps]
    ends = [0.0, *(end for step in steps for end in (step.start, step.end))]
    scale = alt.Scale(domain=[min(ends), max(ends) * _ROOM], nice=False)
    base = alt.Chart(alt.InlineData(values=values)).encode(
        y=alt.Y(
            "label:N",
            sort=None,
            axis=alt.Axis(title=None, ticks=False, domain=False, grid=False, labelLimit=130),
        ),
        tooltip=[
            alt.Tooltip("label:N", title="part"),
            alt.Tooltip("shown:N", title="time"),
            alt.Tooltip("kind:N", title="kind"),
        ],
    )
    tones = alt.Scale(domain=list(_TONES), range=list(_TONES.values()))
    bars = base.mark_bar(height=15, strokeWidth=1.5).encode(
        x=alt.X("start:Q", title=axis_title, scale=scale, axis=alt.Axis(tickCount=4)),
        x2="end:Q",
        color=alt.Color("tone:N", scale=tones, legend=None),
        stroke=alt.Stroke("tone:N", scale=tones, legend=None),
        # dashed and nearly empty: visible without colour
        fillOpacity=alt.condition(of_kind(Kind.PREDICTED), alt.value(0.2), alt.value(0.85)),
        strokeDash=alt.condition(of_kind(Kind.PREDICTED), alt.value([4, 3]), alt.value([1, 0])),
    )
    text = base.mark_text(align="left", dx=6, color="var(--ink)").encode(
        x=alt.X("right:Q", title=axis_title), text="shown:N"
    )
    return finished(alt.layer(bars, text), _STEP * len(steps), description)
