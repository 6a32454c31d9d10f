"""The data behind the page, inside the page: links that save a file."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.profiling.results import Row
from deploy.profiling.summary import Comparison
from deploy.reporting.published import csv_report, json_report, report_document

_MOST_BYTES = 1_200_000
"""Of raw samples, compressed: the page stays below 3 MB with what draws its charts."""


@dataclass(frozen=True, slots=True)
class Download:
    """One link."""

    file: str
    about: str
    href: str


def downloads(rows: Sequence[Row], title: str, comparisons: Sequence[Comparison]) -> list[Download]:
    """Return the figures as CSV and JSON, and the raw samples unless they are too many."""
    document = report_document(rows, title, comparisons)
    found = [
        Download(
            "figures.csv", "one line per configuration", _link("text/csv", csv_report(document))
        ),
        Download("report.json", "all figures", _link("application/json", json_report(document))),
    ]
    lines = (row.model_dump_json(by_alias=True, exclude_none=True) for row in rows)
    raw = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)
    if len(raw) <= _MOST_BYTES:
        href = _link("application/gzip", raw)
        found.append(Download("results.jsonl.gz", "raw samples", href))
    return found


def _link(kind: str, data: str | bytes) -> str:
    raw = data.encode() if isinstance(data, str) else data
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"
