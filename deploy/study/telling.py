"""What people read of a study: one line per cell with its headline figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploy.profiling.results import Row, read_results
from deploy.profiling.statistics import Estimate
from deploy.profiling.summary import Comparison, summarize
from deploy.reporting.document import Cell as Shown
from deploy.reporting.document import printable
from deploy.reporting.figures import (
    accuracy_cell,
    coverage_cell,
    float_with_accuracy,
    headline_metric,
    latency_cell,
    speed_up_cell,
)
from deploy.study.running import Ended
from deploy.study.state import LOG, RESULTS, StudyFolder, is_done

HEADS = (
    "cell", "status", "INT8 p50", "fastest float ÷ INT8", "accuracy float → INT8", "INT8 MACs",
    "kind",
)  # fmt: skip
_BLANK = ("",) * 5


def status_word(ended: Ended) -> str:
    """Return ``done``, ``failed`` or ``to do``."""
    if ended.status is None:
        return "to do"
    return "done" if is_done(ended.status) else "failed"


def cell_line(ended: Ended, folder: StudyFolder) -> str:
    """Return one line about a cell that ended."""
    status = ended.status
    assert status is not None
    if status.failure is not None:
        return f"{ended.cell.label}: FAILED at {status.failure.step}: {status.failure.problem}"
    return "\n".join(
        f"{ended.cell.label}: INT8 {latency}, fastest float ÷ INT8 {ratio}  {kind}"
        for latency, ratio, *_, kind in _figures(rows_of(ended, folder))
    )


def table(ended: Sequence[Ended], folder: StudyFolder) -> str:
    """Return all cells, a line for each engine of each, and below them why cells failed."""
    lines: list[tuple[str, ...]] = [HEADS]
    notes = []
    for each in ended:
        found = _figures(rows_of(each, folder)) or [_BLANK]
        lines += [(each.cell.label, status_word(each), *figures) for figures in found]
        notes += notes_on(each, folder)
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]
    rows = [
        "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([rows[0], "─" * max(map(len, rows)), *rows[1:], *notes])


def plain(ended: Ended, folder: StudyFolder) -> dict[str, Any]:
    """Return a cell for JSON."""
    cell, status = ended.cell, ended.status
    return {
        "id": cell.id,
        "cell": cell.label,
        "model": cell.model,
        "values": cell.values,
        "status": status_word(ended),
        "folder": str(folder.of(cell)),
        "build": str(folder.of(cell.build)),
        "began": status and status.began,
        "ended": status and status.ended,
        "failure": status and status.failure and status.failure.model_dump(),
        "figures": [_plain_figures(c) for c in summarize(rows_of(ended, folder))],
    }


def plan_lines(cells: Sequence[Ended]) -> list[str]:
    """Return what a study consists of and how far it is."""
    builds = len({each.cell.build.id for each in cells})
    lines = [
        f"{each.cell.id}  build {each.cell.build.id}  {status_word(each):<6}  {each.cell.label}"
        for each in cells
    ]
    return [*lines, f"{len(cells)} cells on {builds} bundles"]


def rows_of(ended: Ended, folder: StudyFolder) -> list[Row]:
    """Return the results of a cell; none unless it ended well."""
    return read_results(folder.of(ended.cell) / RESULTS) if is_done(ended.status) else []


def _figures(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    metric = headline_metric(rows)
    lines: list[tuple[str, ...]] = []
    for found in summarize(rows):
        group = [f.row for f in (*found.floats, found.simulated, found.int8) if f is not None]
        accuracies = (
            accuracy_cell(float_with_accuracy(found, metric), metric, group),
            accuracy_cell(found.int8.row if found.int8 else None, metric, group),
        )
        lines.append(
            (
                _text(latency_cell(found.int8, group)),
                _text(
                    speed_up_cell(found.measured_speed_up, found.fastest_float, found.int8, group)
                ),
                f"{metric or ''} {accuracies[0].text} → {accuracies[1].text}",
                coverage_cell(found.coverage, found.coverage_kind).text,
                str(found.coverage_kind or ""),
            )
        )
    return lines


def _text(cell: Shown) -> str:
    """Return a cell of the report on one line."""
    detail = f"({cell.detail.replace(' – ', '–')})" if cell.detail else ""
    return printable(" ".join(part for part in (cell.text, detail, cell.remark) if part))


def notes_on(ended: Ended, folder: StudyFolder) -> list[str]:
    """Return why a cell failed and what to do, or what must be said about one that did not."""
    status = ended.status
    if status is None:
        return []
    if status.failure is None:
        return [f"{ended.cell.label}: {status.note}"] if status.note else []
    failure, cell = status.failure, ended.cell
    path = folder.of(cell.build if failure.step == "build" else cell)
    return [
        f"{cell.label} failed at {failure.step}: {printable(failure.problem)}",
        f"  fix: {printable(failure.fix)}; then --retry-failed",
        f"  log: {path / LOG}",
    ]


def _plain_figures(found: Comparison) -> dict[str, Any]:
    int8 = found.int8
    return {
        "engine": found.engine,
        "kind": int8 and int8.row.kind,
        "int8_ms": _plain_estimate(int8.median_ms) if int8 else None,
        "speed_up": _plain_estimate(found.measured_speed_up),
        "fastest_float": found.fastest_float and found.fastest_float.row.label,
        "accuracy": [a.model_dump() for a in int8.row.accuracy] if int8 else [],
        "coverage": found.coverage.share if found.coverage else None,
    }


def _plain_estimate(estimate: Estimate | None) -> dict[str, float] | None:
    if estimate is None:
        return None
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}
