"""The terminal's table of SYNTHETIC rows: complete in a pipe, folded on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from deploy.profiling.results import Row
from deploy.profiling.summary import summarize
from deploy.reporting.sections.overview import section
from deploy.reporting.table import print_overview, terminal_table
from tests.reporting.synthetic import synthetic_row


def test_a_pipe_gets_every_cell_whole_and_no_colours(rows: list[Row]) -> None:
    stream = io.StringIO()
    print_overview(rows, stream)
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "…" not in text
    for cells in section(rows, summarize(rows)).tables[0].rows:
        for cell in cells:
            assert cell.text in text
            assert cell.detail.replace(" – ", "–") in text
            assert cell.remark in text
            assert (cell.kind or "") in text


@pytest.mark.parametrize("width", [100, 120])
def test_a_narrow_terminal_folds_between_words(rows: list[Row], width: int) -> None:
    stream = io.StringIO()
    Console(file=stream, width=width).print(terminal_table(rows, width))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    words = set(" ".join(lines).split())
    assert {"MEASURED", "SIMULATED", "BUILT", "evidence", "difference", "slower"} <= words
    assert {
        cell.text
        for cells in section(rows, summarize(rows)).tables[0].rows
        for cell in cells[-2:-1]
    } - {"not run here"} <= words


def test_names_are_neither_markup_nor_terminal_commands() -> None:
    stream = io.StringIO()
    print_overview([synthetic_row(model="[red]x[/red]\x1b[31m")], stream)
    assert "[red]x[/red]\N{REPLACEMENT CHARACTER}[31m" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
