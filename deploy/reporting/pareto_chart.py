"""The chart of two aims at once: what no other configuration beats stands out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import altair as alt

from deploy.reporting.chart_style import by_role, finished, shape_by_role

_HEIGHT = 300
_DIMMED = 0.35
_MARGIN = 0.08


@dataclass(frozen=True, slots=True)
class Spot:
    """One configuration; intervals of no width where none is known."""

    name: str
    role: str
    number: str
    """Its line in the table; empty for those off the front."""
    x: float
    x_low: float
    x_high: float
    y: float
    y_low: float
    y_high: float
    x_shown: str
    y_shown: str

    @property
    def on_front(self) -> bool:
        """Whether no other is better in one and as good in the other."""
        return bool(self.number)


def pareto_chart(
    spots: Sequence[Spot], *, x_title: str, y_title: str, y_down: bool, description: str
) -> dict[str, Any]:
    """Return points with intervals as bars, better to the left and above.

    Args:
        spots: All configurations.
        x_title: Quantity and unit.
        y_title: The same of the other.
        y_down: Whether smaller is better there: the axis then runs downwards.
        description: Read out in place of the picture.
    """
    values = [{**asdict(spot), "front": spot.on_front} for spot in spots]
    x_scale = alt.Scale(domain=_domain(spots, "x"), nice=False, zero=False)
    y_scale = alt.Scale(domain=_domain(spots, "y"), nice=False, zero=False, reverse=y_down)
    x = alt.X("x:Q", title=x_title, scale=x_scale, axis=alt.Axis(tickCount=5))
    y = alt.Y("y:Q", title=y_title, scale=y_scale, axis=alt.Axis(tickCount=5))
    base = alt.Chart(alt.InlineData(values=values))
    strength = alt.condition("datum.front", alt.value(1), alt.value(_DIMMED))
    tooltip = [
        alt.Tooltip("name:N", title="configuration"),
        alt.Tooltip("x_shown:N", title="p50"),
        alt.Tooltip("y_shown:N", title="accuracy"),
    ]
    front = base.transform_filter("datum.front")
    line = front.mark_line(interpolate="step-after", color="var(--muted)", strokeWidth=1).encode(
        x=x, y=y, order="x:Q"
    )
    across = base.mark_rule(strokeWidth=1.5).encode(
        x=alt.X("x_low:Q", title=x_title), x2="x_high:Q", y=y, color=by_role(), opacity=strength
    )
    along = base.mark_rule(strokeWidth=1.5).encode(
        x=x, y=alt.Y("y_low:Q", title=y_title), y2="y_high:Q", color=by_role(), opacity=strength
    )
    points = base.mark_point(size=80, filled=True, strokeWidth=1.5).encode(
        x=x,
        y=y,
        color=by_role(),
        shape=shape_by_role(),
        opacity=strength,
        tooltip=tooltip,
    )
    text = front.mark_text(align="left", dx=8, dy=-8, color="var(--ink)", fontWeight="bold").encode(
        x=x, y=y, text="number:N"
    )
    return finished(alt.layer(line, across, along, points, text), _HEIGHT, description)


def _domain(spots: Sequence[Spot], axis: str) -> list[float]:
    low = min(getattr(spot, f"{axis}_low") for spot in spots)
    high = max(getattr(spot, f"{axis}_high") for spot in spots)
    margin = _MARGIN * ((high - low) or abs(high) or 1.0)
    return [low - margin, high + margin]
