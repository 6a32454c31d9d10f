"""The report of the SYNTHETIC rows as text: every table's cells, and what every chart says.

Beside it the report for a pull request, as it is.

After a change on purpose: ``python -m tests.reporting.golden``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from deploy.reporting.markdown import markdown_report
from deploy.reporting.page import write_report
from tests.reporting.reading import Page, page_from_html
from tests.reporting.synthetic import synthetic_rows
from tests.reporting.synthetic_resources import task_rows

GOLDEN = Path(__file__).parents[1] / "golden" / "report.txt"
GOLDEN_MARKDOWN = GOLDEN.with_name("report.md")
_PIECES = ("value", "kind", "detail", "remark")


def golden_markdown() -> str:
    """Return the report for a pull request, of the SYNTHETIC rows and task."""
    return markdown_report(synthetic_rows(), "INT8 report", task_rows())


def golden_text(page: Page) -> str:
    """Return a line per chart, and one per row of every table."""
    lines = [f"# {json.loads(spec)['description']}" for spec in page.specs]
    for caption, rows in page.tables.items():
        lines += ["", f"## {caption}", " | ".join(rows[0])]
        for row in rows:
            cells = [
                " ".join(filter(None, (getattr(cell, piece) for piece in _PIECES)))
                for cell in row.values()
            ]
            lines.append(" | ".join(cells))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    GOLDEN_MARKDOWN.write_text(golden_markdown(), "utf-8")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        write_report(synthetic_rows(), path, tasks=task_rows())
        GOLDEN.write_text(golden_text(page_from_html(path.read_text("utf-8"))), "utf-8")
