"""Charts of one line per configuration: bars, points, and strips of all samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import altair as alt

from deploy.reporting.chart_style import LINES, by_role, finished, of_kind, shape_by_role
from trueint8.kinds import Kind

_STEP = 38
_ROOM = 1.45
"""Axis length in units of the longest bar: what is left holds the text on a phone."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One configuration in a chart; colour, label and outline say the same thing."""

    label: str
    kind: Kind
    role: str
    value: float
    shown: str
    low: float | None = None
    high: float | None = None
    interval: str = ""


@dataclass(frozen=True, slots=True)
class Strip:
    """All samples of one configuration."""

    label: str
    role: str
    bins: Sequence[tuple[float, float]]
    """Where each begins, and the share of samples in it."""
    width: float
    """Of every bin, the same in all strips of a chart."""


def bar_chart(
    marks: Sequence[Mark], *, axis_title: str, upper: float, description: str
) -> dict[str, Any]:
    """Return horizontal bars from zero, with error bars.

    Args:
        marks: One bar each, from top to bottom; labels are unique.
        axis_title: Quantity and unit.
        upper: Right end of the axis, in the marks' unit; the same in charts to be compared.
        description: Read out in place of the picture.
    """
    scale = alt.Scale(domain=[0, upper * _ROOM], nice=False)
    base = _base(marks)
    x = alt.X("value:Q", title=axis_title, scale=scale, axis=alt.Axis(tickCount=4))
    bars = base.mark_bar(height=20, strokeWidth=1.5, cornerRadiusEnd=2).encode(
        x=x,
        color=by_role(),
        stroke=by_role(alt.Stroke),
        # dashed and nearly empty: visible without colour
        fillOpacity=alt.condition(of_kind(Kind.SIMULATED), alt.value(0.2), alt.value(0.85)),
        strokeDash=alt.condition(of_kind(Kind.SIMULATED), alt.value([4, 3]), alt.value([1, 0])),
    )
    rule = base.mark_rule(color="var(--ink)", strokeWidth=1.5).encode(x="low:Q", x2="high:Q")
    ends = [
        base.mark_tick(color="var(--ink)", thickness=1.5, size=9).encode(x=f"{end}:Q")
        for end in ("low", "high")
    ]
    text = base.mark_text(align="left", dx=8, color="var(--ink)").encode(x="high:Q", text="shown:N")
    return finished(alt.layer(bars, rule, *ends, text), _STEP * len(marks), description)


def dot_chart(
    marks: Sequence[Mark],
    *,
    axis_title: str,
    domain: tuple[float, float],
    reference: float | None,
    description: str,
) -> dict[str, Any]:
    """Return one point per configuration on an axis that need not start at zero.

    Args:
        marks: One point each, from top to bottom; labels are unique.
        axis_title: Metric and direction.
        domain: Ends of the axis; the same in charts to be compared.
        reference: Where the dashed float line stands; None for no line.
        description: Read out in place of the picture.
    """
    scale = alt.Scale(domain=list(domain), zero=False, nice=False)
    base = _base(marks)
    axis = alt.Axis(tickCount=4)
    points = base.mark_point(size=90, filled=True, opacity=1, strokeWidth=1.5).encode(
        x=alt.X("value:Q", title=axis_title, scale=scale, axis=axis),
        color=by_role(),
        stroke=by_role(alt.Stroke),
        shape=shape_by_role(),
        fillOpacity=alt.condition(of_kind(Kind.SIMULATED), alt.value(0.2), alt.value(0.85)),
    )
    text = base.mark_text(align="right", color="var(--ink)").encode(
        x=alt.value("width"), text="shown:N"
    )
    layers: list[alt.Chart] = [points, text]
    if reference is not None:
        line = alt.Chart(alt.InlineData(values=[{"reference": reference}]))
        rule = line.mark_rule(strokeDash=[3, 3], color="var(--muted)").encode(
            x=alt.X("reference:Q", scale=scale, title=axis_title)
        )
        layers.insert(0, rule)
    return finished(alt.layer(*layers), _STEP * len(marks), description)


def strip_chart(
    strips: Sequence[Strip], *, axis_title: str, domain: tuple[float, float], description: str
) -> dict[str, Any]:
    """Return one strip per configuration, the darker the more samples lie there.

    Args:
        strips: From top to bottom; labels are unique.
        axis_title: Quantity and unit.
        domain: Ends of the axis.
        description: Read out in place of the picture.
    """
    bins = [
        {"label": s.label, "role": s.role, "from": at, "share": share}
        for s in strips
        for at, share in s.bins
    ]
    scale = alt.Scale(domain=list(domain), zero=False, nice=False)
    share = alt.Scale(
        domain=[0, max(share for s in strips for *_, share in s.bins)], range=[0.08, 1]
    )
    drawn = (
        alt.Chart(alt.InlineData(values=bins))
        .transform_calculate(to=f"datum.from + {strips[0].width}")
        .mark_rect(height={"band": 0.6})
        .encode(
            x=alt.X("from:Q", title=axis_title, scale=scale, axis=alt.Axis(tickCount=4)),
            x2="to:Q",
            y=_lines([s.label for s in strips]),
            color=by_role(),
            fillOpacity=alt.FillOpacity("share:Q", scale=share, legend=None),
            tooltip=[
                alt.Tooltip("label:N", title="configuration"),
                alt.Tooltip("from:Q", title="from", format=".3f"),
                alt.Tooltip("to:Q", title="to", format=".3f"),
                alt.Tooltip("share:Q", title="samples", format=".1%"),
            ],
        )
    )
    return finished(drawn, _STEP * len(strips), description)


def _lines(labels: list[str] | None = None) -> alt.Y:
    axis = alt.Axis(
        title=None,
        labelExpr=LINES,
        ticks=False,
        domain=False,
        labelLimit=160,
        grid=False,
        labelPadding=8,
    )
    scale = alt.Scale(domain=labels) if labels else alt.Undefined
    return alt.Y("label:N", sort=None, axis=axis, scale=scale)


def _base(marks: Sequence[Mark]) -> alt.Chart:
    values = [asdict(mark) for mark in marks]
    tooltip = [
        alt.Tooltip("label:N", title="configuration"),
        alt.Tooltip("shown:N", title="value"),
        alt.Tooltip("kind:N", title="kind"),
    ]
    if any(mark.interval for mark in marks):
        tooltip.insert(2, alt.Tooltip("interval:N", title="95 % interval"))
    return alt.Chart(alt.InlineData(values=values)).encode(y=_lines(), tooltip=tooltip)
