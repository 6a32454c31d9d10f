"""Load rows and figures as lines for a terminal, and as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

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
from deploy.profiling.results import Row
from deploy.profiling.statistics import Estimate


def row_line(row: LoadRow) -> str:
    """Return one rate of one server as a line."""
    found = percentiles_of(row)
    times = ", ".join(f"p{q} {_ms(found[q])}" for q in (50, 99))
    batch = row.server.mean_batch
    parts = [
        f"{row.label}: {row.rate_per_s:.4g}/s due, {throughput_per_s(row):.4g}/s answered",
        times,
        *([f"mean batch {batch:.2f}"] if batch is not None else []),
        *(
            [f"{row.sent - row.answered} of {row.sent} unanswered"]
            if row.answered < row.sent
            else []
        ),
        *([f"the client was {row.lag_p99_ms:.1f} ms late"] if lag_matters(row) else []),
        "holds" if holds(row) else f"breaks {row.objective_ms:g} ms",
    ]
    return f"{'; '.join(parts)} [{row.kind}]"


def summary_lines(rows: Sequence[LoadRow], results: Sequence[Row]) -> list[str]:
    """Return what each server sustains, and how they compare."""
    lines = [f"{one.label}: {sustained_text(one)} [MEASURED]" for one in sustained(rows)]
    lines += [
        f"{row.label}: perf_analyzer at {row.rate_per_s:.4g}/s: "
        f"p50 {row.perf_analyzer['p50_us'] / 1e3:.4g} ms, "
        f"p99 {row.perf_analyzer['p99_us'] / 1e3:.4g} ms, from when it sent each [MEASURED]"
        for row in rows
        if row.perf_analyzer is not None
    ]
    for served in served_speed_ups(rows, results):
        lines += [f"{line} [MEASURED]" for line in served_lines(served)]
        if results and served.offline is None:
            lines.append(
                f"the results hold no latency of both {served.baseline} and {served.candidate}; "
                "which bundle they are, Triton's models say with --repo only"
            )
    if rows and rows[0].environment.get("same_machine"):
        lines.append("client and servers share this machine; the client takes processor time too")
    return lines


def sustained_text(one: Sustained) -> str:
    """Return the rate that a server sustains, and the one that broke it."""
    objective = f"p99 within {one.rows[0].objective_ms:g} ms"
    if one.held_per_s is None:
        return f"no rate held {objective}; {one.broke_per_s:.4g}/s broke it"
    end = "no rate broke it" if one.broke_per_s is None else f"{one.broke_per_s:.4g}/s broke it"
    return f"{one.held_per_s:.4g}/s held {objective}; {end}"


def served_lines(served: Served) -> list[str]:
    """Return the served speed-up, and the offline one beside it."""
    pair = f"{served.candidate} against {served.baseline}"
    lines = [f"{pair}: sustained rate {shown_capacity(served)} times"]
    if served.latencies:
        rate, ratio = served.latencies[0]
        lines.append(f"{pair}: served p50 at {rate:.4g}/s {ratio_text(ratio)} times faster")
    if served.offline is not None:
        lines.append(f"{pair}: offline {ratio_text(served.offline)} times faster")
    return lines


def ratio_text(ratio: Estimate) -> str:
    """Return a ratio with its interval."""
    return f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _ms(found: Estimate | None) -> str:
    if found is None:
        return "of too few requests"
    return f"{found.value:.4g} ms ({found.low:.4g} to {found.high:.4g})"


def plain_figures(rows: Sequence[LoadRow], results: Sequence[Row]) -> dict[str, Any]:
    """Return all figures, as JSON can hold them; raw latencies are in the results file."""
    return {
        "servers": [
            {
                "label": one.label,
                "held_per_s": one.held_per_s,
                "broke_per_s": one.broke_per_s,
                "kind": "MEASURED",
                "rates": [_plain(row) for row in one.rows],
            }
            for one in sustained(rows)
        ],
        "comparisons": [
            {**dataclasses.asdict(served), "kind": "MEASURED"}
            for served in served_speed_ups(rows, results)
        ],
    }


def _plain(row: LoadRow) -> dict[str, Any]:
    found = {f"p{q}_ms": v and dataclasses.asdict(v) for q, v in percentiles_of(row).items()}
    kept = row.model_dump(by_alias=True, mode="json", exclude={"rounds_ns", "environment"})
    return {**kept, **found, "throughput_per_s": throughput_per_s(row), "holds": holds(row)}
