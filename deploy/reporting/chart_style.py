"""What all charts share: colours from the page's style sheet, type sizes, and how they end.

Colours are CSS variables (``var(--ink)``), so a chart drawn as SVG follows the
reader's light or dark scheme, and turns light for print, without being drawn again.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from trueint8.kinds import Kind

ROLES = ["float", "Q/DQ", "INT8"]
_COLOURS = ["var(--series-float)", "var(--series-simulated)", "var(--series-int8)"]
_SHAPES = ["circle", "diamond", "square"]
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
LINES = "split(datum.label, '\\n')"
"""Axis labels of two lines: the configuration, and its kind below."""


def by_role(channel: Any = alt.Color) -> Any:
    """Return a colour channel that tells float, simulation and INT8 apart."""
    return channel("role:N", scale=alt.Scale(domain=ROLES, range=_COLOURS), legend=None)


def shape_by_role() -> Any:
    """Return a shape channel that tells the same apart without colour."""
    return alt.Shape("role:N", scale=alt.Scale(domain=ROLES, range=_SHAPES), legend=None)


def of_kind(kind: Kind) -> str:
    """Return the condition that a mark's figure is of a kind."""
    return f"datum.kind === '{kind}'"


def finished(chart: Any, height: int, description: str) -> dict[str, Any]:
    """Return the specification of a chart as wide as its container.

    Args:
        chart: A single or layered chart.
        height: Pixels, axes left out.
        description: Read out in place of the picture.
    """
    styled = (
        chart.properties(width="container", height=height, description=description)
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
        .configure_legend(labelColor="var(--ink)", labelFontSize=11, orient="top", title=None)
        .configure_text(fontSize=11.5)
    )
    # the same for every report, so a test validates it and not every reader waits
    spec: dict[str, Any] = styled.to_dict(validate=False)
    return spec
