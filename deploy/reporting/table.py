"""The report's top table on a terminal, or as plain text in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from deploy.profiling.results import Row
from deploy.profiling.summary import summarize
from deploy.reporting import document
from deploy.reporting.document import Cell, Column
from deploy.reporting.figures import NOT_RUN
from deploy.reporting.sections.overview import section

_NAMES = 3
"""Leading columns (model, engine, metric) that a terminal shows as a line above the figures."""

_GAP = 2
_TIGHT = 1
_LEGEND = (
    "Below each latency and speed-up: its 95 % interval. Speed-up, simulated: FP32 float ÷ Q/DQ "
    "in FP32 arithmetic; measured: fastest float ÷ INT8."
)


def terminal_table(rows: Sequence[Row], width: int | None = None) -> Group:
    """Return the overview's cells for rich; the same figures as in the HTML page.

    Args:
        rows: Rows of a results file.
        width: Columns of the terminal; None folds nothing.
    """
    overview = section(rows, summarize(rows)).tables[0]
    columns = overview.columns[_NAMES:]
    lines = [[_text(cell) for cell in cells[_NAMES:]] for cells in overview.rows]
    titles = [Text(_title(column), style="bold") for column in columns]
    widths, gap = _widths([titles, *lines], width)
    parts: list[RenderableType] = [
        _line(titles, widths, gap),
        Text("─" * (sum(widths) + gap * (len(widths) - 1))),
    ]
    for cells, line in zip(overview.rows, lines, strict=True):
        parts += [_heading(cells[:_NAMES]), _line(line, widths, gap), Text("")]
    return Group(*parts, Text(_LEGEND))


def print_overview(rows: Sequence[Row], stream: TextIO) -> None:
    """Print the top table; without colours and as wide as its text if not a terminal.

    Args:
        rows: Rows of a results file.
        stream: Where to; a terminal narrower than the text gets folded cells.
    """
    if stream.isatty():
        console = Console(file=stream, highlight=False)
        console.print(terminal_table(rows, console.width))
        return
    console = Console(file=stream, highlight=False, color_system=None, width=10_000)
    with console.capture() as captured:
        console.print(terminal_table(rows))
    # rich fills every line to the right edge
    stream.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _title(column: Column) -> str:
    return f"{column.group}\n{column.title}" if column.group else column.title


def _heading(cells: Iterable[Cell]) -> Padding:
    parts = []
    for cell in cells:
        if cell.text == NOT_RUN:
            continue
        detail = f" ({document.printable(cell.detail)})" if cell.detail else ""
        parts.append(f"{document.printable(cell.text)}{detail}")
    return Padding(Text(" · ".join(parts), style="bold", overflow="fold"), 0)


def _line(cells: Sequence[Text], widths: Sequence[int], gap: int) -> Table:
    grid = Table.grid(padding=(0, gap, 0, 0))
    for width in widths:
        grid.add_column(width=width, overflow="fold")
    grid.add_row(*cells)
    return grid


def _text(cell: Cell) -> Text:
    parts = [Text(document.printable(cell.text))]
    if cell.detail:
        parts.append(Text(document.printable(cell.detail).replace(" – ", "–"), style="dim"))
    if cell.remark:
        parts.append(Text(document.printable(cell.remark)))
    if cell.kind is not None:
        parts.append(Text(cell.kind.value, style="italic"))
    return Text("\n").join(parts)


def _widths(table: Sequence[Sequence[Text]], available: int | None) -> tuple[list[int], int]:
    """Return column widths and the gap: whole lines if they fit, else at least the longest word."""
    columns = [[cell.plain for cell in column] for column in zip(*table, strict=True)]
    whole = [max(len(line) for text in texts for line in text.split("\n")) for texts in columns]
    if available is None or sum(whole) + _GAP * (len(whole) - 1) <= available:
        return whole, _GAP
    widths = [max(len(word) for text in texts for word in text.split()) for texts in columns]
    spare = available - sum(widths) - _TIGHT * (len(widths) - 1)
    while spare > 0 and widths != whole:
        narrowest = max(range(len(widths)), key=lambda i: whole[i] - widths[i])
        widths[narrowest] += 1
        spare -= 1
    return widths, _TIGHT
