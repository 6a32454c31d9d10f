"""Vega-Lite charts that take every colour from the page's style sheet.

Colours are CSS variables (``var(--ink)``), so a chart drawn as SVG follows the
reader's light or dark scheme, and turns light for print, without being drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import altair as alt

from trueint8.kinds import Kind

_ROLES = ["float", "Q/DQ", "INT8"]
_COLOURS = ["var(--series-float)", "var(--series-simulated)", "var(--series-int8)"]
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_STEP = 38
_ROOM = 1.45
"""Axis length in units of the longest bar: what is left holds the text on a phone."""
_LINES = "split(datum.label, '\\n')"
"""Axis labels of two lines: the configuration, and its kind below."""


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
        color=_colour(),
        stroke=_colour(alt.Stroke),
        # dashed and nearly empty: visible without colour
        fillOpacity=alt.condition(_is_simulated(), alt.value(0.2), alt.value(0.85)),
        strokeDash=alt.condition(_is_simulated(), alt.value([4, 3]), alt.value([1, 0])),
    )
    rule = base.mark_rule(color="var(--ink)", strokeWidth=1.5).encode(x="low:Q", x2="high:Q")
    ends = [
        base.mark_tick(color="var(--ink)", thickness=1.5, size=9).encode(x=f"{end}:Q")
        for end in ("low", "high")
    ]
    text = base.mark_text(align="left", dx=8, color="var(--ink)").encode(x="high:Q", text="shown:N")
    return _finished(alt.layer(bars, rule, *ends, text), len(marks), description)


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
        color=_colour(),
        stroke=_colour(alt.Stroke),
        shape=alt.Shape(
            "role:N",
            scale=alt.Scale(domain=_ROLES, range=["circle", "diamond", "square"]),
            legend=None,
        ),
        fillOpacity=alt.condition(_is_simulated(), alt.value(0.2), alt.value(0.85)),
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
    return _finished(alt.layer(*layers), len(marks), description)


def _base(marks: Sequence[Mark]) -> alt.Chart:
    values = [asdict(mark) for mark in marks]
    tooltip = [
        alt.Tooltip("label:N", title="configuration"),
        alt.Tooltip("shown:N", title="value"),
        alt.Tooltip("kind:N", title="kind"),
    ]
    if any(mark.interval for mark in marks):
        tooltip.insert(2, alt.Tooltip("interval:N", title="95 % interval"))
    axis = alt.Axis(title=None, labelExpr=_LINES, ticks=False, domain=False, labelLimit=160)
    return alt.Chart(alt.InlineData(values=values)).encode(
        y=alt.Y("label:N", sort=None, axis=axis), tooltip=tooltip
    )


def _is_simulated() -> str:
    return f"datum.kind === '{Kind.SIMULATED}'"


def _colour(channel: Any = alt.Color) -> Any:
    return channel("role:N", scale=alt.Scale(domain=_ROLES, range=_COLOURS), legend=None)


def _finished(chart: Any, marks: int, description: str) -> dict[str, Any]:
    styled = (
        chart.properties(width="container", height=_STEP * marks, description=description)
        .configure(background="transparent", font=_FONT, padding=2)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor="var(--ink)",
            titleColor="var(--muted)",
            titleFontWeight="normal",
            gridColor="var(--line)",
            domainColor="var(--line)",
            tickColor="var(--line)",
            labelFontSize=11,
            titleFontSize=11,
            labelLineHeight=13,
        )
        .configure_axisY(grid=False, labelPadding=8)
        .configure_text(fontSize=11.5)
    )
    # the same for every report, so a test validates it and not every reader waits
    spec: dict[str, Any] = styled.to_dict(validate=False)
    return spec
