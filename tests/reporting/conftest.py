"""One page of SYNTHETIC rows, written once and read by every test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from deploy.profiling.results import Row
from deploy.reporting.page import write_report
from tests.reporting.reading import Page, page_from_html
from tests.reporting.synthetic import synthetic_rows
from tests.reporting.synthetic_resources import task_rows


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    """Return the SYNTHETIC rows."""
    return synthetic_rows()


@pytest.fixture(scope="session")
def html(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the report of the SYNTHETIC rows."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(rows, path, tasks=task_rows())
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def page(html: str) -> Page:
    """Return what a reader sees of that report."""
    return page_from_html(html)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Sequence[Row]], str]:
    """Return a function that writes a report of other rows and returns its HTML."""

    def write(other: Sequence[Row]) -> str:
        path = tmp_path / "other.html"
        write_report(other, path)
        return path.read_text(encoding="utf-8")

    return write
