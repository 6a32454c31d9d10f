"""Load rows to figures: percentiles, what a server sustains, served beside offline speed-up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.loading.rows import LoadRow
from deploy.profiling.results import Row
from deploy.profiling.statistics import Estimate, percentile_ms, quantile_ms, speed_up

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Sustained:
    """What one server sustains.

    Attributes:
        label: The server.
        held_per_s: The highest rate below which every rate held the objective; None if none did.
        broke_per_s: The rate that broke it; None if none did.
        rows: Of the server, by rate.
    """

    label: str
    held_per_s: float | None
    broke_per_s: float | None
    rows: tuple[LoadRow, ...]


@dataclass(frozen=True, slots=True)
class Served:
    """How much faster one server is than another, behind the same server program.

    Attributes:
        baseline: Label of the slower one, if all is well.
        candidate: Label of the other.
        latencies: By rate that both were loaded with: p50 ÷ p50, paired by round.
        capacity: Candidate's rate that holds ÷ baseline's: at least, at most; either None where
            it is not known.
        offline: Median ÷ median of the same two configurations without a server; None where no
            results were given or they hold none of them.
    """

    baseline: str
    candidate: str
    latencies: tuple[tuple[float, Estimate], ...]
    capacity: tuple[float | None, float | None]
    offline: Estimate | None


def percentiles_of(row: LoadRow) -> dict[int, Estimate | None]:
    """Return latencies by percentile, ms; intervals resample rounds."""
    return {q: percentile_ms(row.rounds_ns, q) for q in PERCENTILES}


def holds(row: LoadRow) -> bool:
    """Say whether the 99th percentile is within the objective; unanswered requests are not."""
    return quantile_ms(row.rounds_ns, 99) <= row.objective_ms


def throughput_per_s(row: LoadRow) -> float:
    """Return answers per second, from the first request due to the last answer of each round."""
    return row.answered / row.seconds


def sustained(rows: Sequence[LoadRow]) -> list[Sustained]:
    """Return what each server sustains, in the order they appear."""
    found = []
    for key in dict.fromkeys((row.session, row.url, row.model) for row in rows):
        own = [row for row in rows if (row.session, row.url, row.model) == key]
        own.sort(key=lambda row: row.rate_per_s)
        broke = next((row.rate_per_s for row in own if not holds(row)), None)
        below = [r.rate_per_s for r in own if broke is None or r.rate_per_s < broke]
        found.append(Sustained(own[0].label, max(below, default=None), broke, tuple(own)))
    return found


def served_speed_ups(rows: Sequence[LoadRow], results: Sequence[Row]) -> list[Served]:
    """Compare every later server of a session with its first one.

    Args:
        rows: Of load tests.
        results: Of ``deploy profile``, for the offline speed-up; may be empty.
    """
    found = []
    for session in dict.fromkeys(row.session for row in rows):
        first, *others = sustained([row for row in rows if row.session == session])
        found += [_served(first, other, results) for other in others]
    return found


def _served(baseline: Sustained, candidate: Sustained, results: Sequence[Row]) -> Served:
    pairs = [
        (a.rate_per_s, speed_up(a.rounds_ns, b.rounds_ns))
        for a, b in zip(baseline.rows, candidate.rows, strict=False)
        if a.rate_per_s == b.rate_per_s
    ]
    return Served(
        baseline=baseline.label,
        candidate=candidate.label,
        latencies=tuple(pairs),
        capacity=(
            _ratio(candidate.held_per_s, baseline.broke_per_s),
            _ratio(candidate.broke_per_s, baseline.held_per_s),
        ),
        offline=_offline(baseline.rows[0], candidate.rows[0], results),
    )


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else above / below


def _offline(baseline: LoadRow, candidate: LoadRow, results: Sequence[Row]) -> Estimate | None:
    for before in filter(lambda row: _is(row, baseline), results):
        for after in filter(lambda row: _is(row, candidate), results):
            if before.session == after.session and before.latency and after.latency:
                return speed_up(before.latency.rounds_ns, after.latency.rounds_ns)
    return None


def _is(row: Row, served: LoadRow) -> bool:
    """Say whether a row is of the configuration that was served."""
    about = served.about
    graph = "qdq" if about.get("graph") == "int8" else "float"
    same = (row.bundle_sha256, row.engine, row.graph, row.rest, row.mode) == (
        about.get("bundle_sha256"), about.get("engine"), graph, about.get("rest"), "",
    )  # fmt: skip
    return same and (row.precision == "int8" or graph == "float")


def shown_capacity(served: Served) -> str:
    """Return the ratio of sustained rates as text: a bracket, or what is known of it."""
    least, most = served.capacity
    if least is not None and most is not None:
        return f"between {least:.2f} and {most:.2f}"
    if least is not None:
        return f"at least {least:.2f}"
    return f"at most {most:.2f}" if most is not None else "not known"


def lag_matters(row: LoadRow) -> bool:
    """Say whether the client was late by more than a tenth of the 99th percentile."""
    p99 = quantile_ms(row.rounds_ns, 99)
    return row.lag_p99_ms > max(p99 / 10, 1.0) and math.isfinite(p99)
