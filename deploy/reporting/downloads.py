"""The data behind the page, inside the page: links that save a file."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.harness.results import TaskRow
from deploy.profiling.results import Row
from deploy.profiling.summary import Comparison
from deploy.reporting.published import csv_report, json_report, report_document


@dataclass(frozen=True, slots=True)
class Download:
    """One link."""

    file: str
    about: str
    href: str


def downloads(
    rows: Sequence[Row],
    title: str,
    comparisons: Sequence[Comparison],
    tasks: Sequence[TaskRow] = (),
    *,
    small: bool = False,
) -> list[Download]:
    """Return the figures as CSV and JSON, and the raw samples.

    Args:
        rows: Of the results file.
        title: Of the report.
        comparisons: Of those rows.
        tasks: Of ``deploy lm-eval``.
        small: Whether to leave out the raw samples and compress the JSON.
    """
    document = report_document(rows, title, comparisons, tasks)
    figures = json_report(document, indent=None)
    found = [
        Download(
            "figures.csv", "one line per configuration", _link("text/csv", csv_report(document))
        )
    ]
    if small:
        return [*found, _compressed("report.json.gz", "all figures", figures)]
    lines = (row.model_dump_json(by_alias=True, exclude_none=True) for row in rows)
    return [
        *found,
        Download("report.json", "all figures", _link("application/json", figures)),
        _compressed("results.jsonl.gz", "raw samples", "".join(f"{line}\n" for line in lines)),
    ]


def _compressed(file: str, about: str, text: str) -> Download:
    raw = gzip.compress(text.encode(), mtime=0)
    return Download(file, about, _link("application/gzip", raw))


def _link(kind: str, data: str | bytes) -> str:
    raw = data.encode() if isinstance(data, str) else data
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"
