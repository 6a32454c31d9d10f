"""What servers hold under load: a curve, a table, and served beside offline speed-up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.loading.figures import (
    Served,
    Sustained,
    holds,
    lag_matters,
    percentiles_of,
    served_speed_ups,
    shown_capacity,
    sustained,
    throughput_per_s,
)
from deploy.loading.rows import LoadRow
from deploy.loading.telling import ratio_text, sustained_text
from deploy.profiling.results import Row
from deploy.profiling.statistics import Estimate
from deploy.reporting.document import Cell, Chart, Column, Note, Section, Table
from deploy.reporting.load_chart import LoadPoint, load_chart

COLUMNS = (
    Column("Server"),
    Column("Due per second", numeric=True),
    Column("Answered per second", numeric=True),
    Column("p50, ms", numeric=True),
    Column("p99, ms", numeric=True),
    Column("Mean batch", numeric=True),
    Column("Queue, ms", numeric=True),
    Column("Unanswered", numeric=True),
    Column("Objective"),
)
_PAIR_COLUMNS = (
    Column("Server"),
    Column("Against"),
    Column("Sustained rate"),
    Column("Served p50", numeric=True),
    Column("Offline", numeric=True),
)


def load_section(rows: Sequence[LoadRow], results: Sequence[Row]) -> Section:
    """Return the section of a load test.

    Args:
        rows: One or more.
        results: Of ``deploy profile``, for the offline speed-up.
    """
    servers, pairs = sustained(rows), served_speed_ups(rows, results)
    tables = [Table("Servers under load", COLUMNS, tuple(_lines(servers)))]
    if pairs:
        lines = tuple(_pair(one, rows[0]) for one in pairs)
        tables.append(Table("Served and offline speed-up", _PAIR_COLUMNS, lines))
    return Section(
        title="Under load",
        order=45,
        lead="Requests were due at the times of a Poisson process, at rising rates, and were sent "
        "whether or not earlier ones were answered. Latency counts from when a request was due; "
        f"one without an answer counts as {rows[0].timeout_ms:g} ms. Intervals resample rounds.",
        statements=tuple(Note(sustained_text(s), rows[0].kind, s.label) for s in servers),
        warnings=tuple(_warnings(rows)),
        tables=tuple(tables),
        charts=tuple(_charts(servers)),
        notes=tuple(_notes(rows)),
    )


def _lines(servers: Sequence[Sustained]) -> Iterator[tuple[Cell, ...]]:
    for server in servers:
        for row in server.rows:
            found = percentiles_of(row)
            lost = row.sent - row.answered
            yield (
                Cell(server.label, detail=f"{row.model}, {row.rows} rows a request"),
                Cell(f"{row.rate_per_s:.4g}", order=row.rate_per_s),
                Cell(f"{throughput_per_s(row):.4g}", row.kind, order=throughput_per_s(row)),
                _time(found[50], row),
                _time(found[99], row),
                _mean(row.server.mean_batch, row),
                _mean(row.server.queue_ms, row),
                Cell(str(lost), detail=f"of {row.sent}", order=lost),
                Cell("holds" if holds(row) else "breaks", detail=f"p99 ≤ {row.objective_ms:g} ms"),
            )


def _time(found: Estimate | None, row: LoadRow) -> Cell:
    if found is None:
        return Cell("too few requests", muted=True)
    ends = f"{found.low:.4g} to {found.high:.4g}"
    return Cell(f"{found.value:.4g}", row.kind, ends, order=found.value)


def _mean(value: float | None, row: LoadRow) -> Cell:
    if value is None:
        return Cell("not told", muted=True)
    return Cell(f"{value:.3g}", row.kind, order=value)


def _pair(served: Served, row: LoadRow) -> tuple[Cell, ...]:
    rate, ratio = served.latencies[0]
    offline = Cell("not in the results", muted=True)
    if served.offline is not None:
        offline = _ratio(served.offline, row, "median ÷ median")
    return (
        Cell(served.candidate),
        Cell(served.baseline),
        Cell(f"{shown_capacity(served)}×", row.kind),
        _ratio(ratio, row, f"at {rate:.4g} per second"),
        offline,
    )


def _ratio(ratio: Estimate, row: LoadRow, detail: str) -> Cell:
    return Cell(f"{ratio_text(ratio)}×", row.kind, detail, order=ratio.value)


def _charts(servers: Sequence[Sustained]) -> Iterator[Chart]:
    points = [p for server in servers for row in server.rows for p in _points(server.label, row)]
    if not points:
        return
    told = "; ".join(f"{server.label}: {sustained_text(server)}" for server in servers)
    description = f"Latency over throughput, p99 solid and p50 dotted. {told}."
    spec = load_chart(points, objective_ms=servers[0].rows[0].objective_ms, description=description)
    yield Chart("Latency over throughput", description, spec)


def _points(label: str, row: LoadRow) -> Iterator[LoadPoint]:
    found = percentiles_of(row)
    for percent in (99, 50):
        estimate = found[percent]
        if estimate is None:
            continue
        yield LoadPoint(
            label=label,
            role="INT8" if row.about.get("graph") == "int8" else "float",
            percentile=f"p{percent}",
            throughput=throughput_per_s(row),
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            shown=f"{estimate.value:.4g} ms ({estimate.low:.4g} to {estimate.high:.4g})",
        )


def _warnings(rows: Sequence[LoadRow]) -> Iterator[Note]:
    for row in filter(lag_matters, rows):
        yield Note(
            f"at {row.rate_per_s:.4g} per second the client itself sent up to "
            f"{row.lag_p99_ms:.3g} ms late (99th percentile), which is in the latencies",
            name=row.label,
            fix="load it from another machine",
        )


def _notes(rows: Sequence[LoadRow]) -> Iterator[Note]:
    if any(row.environment.get("same_machine") for row in rows):
        yield Note("Client and servers shared one machine: the client took processor time too.")
    for row in rows:
        if row.perf_analyzer is not None:
            p99_ms = row.perf_analyzer["p99_us"] / 1e3
            yield Note(
                f"perf_analyzer measured a p99 of {p99_ms:.4g} ms at {row.rate_per_s:.4g} "
                "requests per second, counted from when it sent each",
                row.kind,
                row.label,
            )
