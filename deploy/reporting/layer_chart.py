"""The chart over all layers of a graph: one or two points each, on a logarithmic axis or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from deploy.reporting.chart_style import finished

_HEIGHT = 170
_LOOKS = (("var(--series-float)", "circle"), ("var(--series-simulated)", "stroke"))
"""Of the first and the second series."""


def layer_chart(
    layers: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    *,
    axis_title: str,
    logarithmic: bool,
    description: str,
    reference: float | None = None,
) -> dict[str, Any]:
    """Return points over the layers, in the graph's order.

    Args:
        layers: Their names, shown when a point is pointed at.
        series: One or two, by name; None leaves a gap.
        axis_title: Quantity and unit.
        logarithmic: Then every value is above 0.
        description: Read out in place of the picture.
        reference: Where a dashed line stands; None for no line.
    """
    values = [
        {"at": at, "layer": layer, "series": name, "value": value}
        for name, of in series.items()
        for at, (layer, value) in enumerate(zip(layers, of, strict=True), start=1)
        if value is not None
    ]
    scale = alt.Scale(type="log" if logarithmic else "linear", zero=False)
    # a line for every digit of every power would be all one sees
    axis = alt.Axis(tickCount=4, grid=not logarithmic)
    y = alt.Y("value:Q", title=axis_title, scale=scale, axis=axis)
    looks = _LOOKS[: len(series)]
    names = list(series)
    legend = alt.Legend(symbolOpacity=1) if len(series) > 1 else None
    colours = alt.Scale(domain=names, range=[colour for colour, _ in looks])
    shapes = alt.Scale(domain=names, range=[shape for _, shape in looks])
    points = (
        alt.Chart(alt.InlineData(values=values))
        .mark_point(size=30, filled=True, opacity=0.9, strokeWidth=1.5)
        .encode(
            x=alt.X(
                "at:Q",
                title="activations, in the graph's order",
                scale=alt.Scale(domain=[0, len(layers) + 1], nice=False),
                axis=alt.Axis(tickMinStep=1, tickCount=6, grid=False),
            ),
            y=y,
            color=alt.Color("series:N", scale=colours, legend=legend),
            stroke=alt.Stroke("series:N", scale=colours, legend=legend),
            shape=alt.Shape("series:N", scale=shapes, legend=legend),
            tooltip=[
                alt.Tooltip("layer:N", title="read by"),
                alt.Tooltip("series:N", title="what"),
                alt.Tooltip("value:Q", title="value", format=".4g"),
            ],
        )
    )
    if reference is None:
        return finished(points, _HEIGHT, description)
    line = alt.Chart(alt.InlineData(values=[{"reference": reference}]))
    rule = line.mark_rule(strokeDash=[3, 3], color="var(--muted)").encode(
        y=alt.Y("reference:Q", title=axis_title)
    )
    return finished(alt.layer(rule, points), _HEIGHT, description)
