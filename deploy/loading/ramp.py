"""Rising rates until the objective breaks; several servers are loaded in turn, round by round."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import Any

import aiohttp
import numpy as np

from deploy.loading.counters import between
from deploy.loading.endpoint import Endpoint, read_counters
from deploy.loading.figures import holds
from deploy.loading.payloads import Payload
from deploy.loading.rows import LoadRow
from deploy.loading.sending import Round, poisson_arrivals, send_round
from deploy.profiling.statistics import runs_needed
from trueint8.progress import Progress


@dataclass(frozen=True, slots=True)
class Target:
    """A server and what it is sent."""

    endpoint: Endpoint
    payloads: Sequence[Payload]


@dataclass(frozen=True, slots=True)
class Plan:
    """How load rises.

    Attributes:
        first_per_s: The first rate.
        growth: Each rate is so many times the one before.
        most_per_s: No rate is above it.
        objective_ms: What the 99th percentile may be.
        rounds: Of each rate and server; servers take turns.
        round_s: Aim for one round's length.
        timeout_s: After which a request is given up.
        seed: Of all arrivals.
    """

    first_per_s: float
    growth: float
    most_per_s: float
    objective_ms: float
    rounds: int
    round_s: float
    timeout_s: float
    seed: int

    def count(self, rate_per_s: float) -> int:
        """Return the requests of a round: equally many in all, enough in all for a percentile."""
        return max(ceil(rate_per_s * self.round_s), ceil(runs_needed(99) / self.rounds))


async def ramp(
    client: aiohttp.ClientSession,
    targets: Sequence[Target],
    plan: Plan,
    environment: dict[str, Any],
    progress: Progress,
) -> AsyncIterator[LoadRow]:
    """Yield a row for each rate and server; a server that breaks is not loaded further.

    All servers get the same arrivals, in rounds that alternate, so whatever else the machine does
    meets them alike.
    """
    session = uuid.uuid4().hex
    standing, rate, step = list(targets), plan.first_per_s, 0
    while standing and rate <= plan.most_per_s:
        before = [await read_counters(client, t.endpoint) for t in standing]
        rounds: list[list[Round]] = [[] for _ in standing]
        total = plan.rounds * len(standing)
        with progress.step(f"{rate:.4g} requests/s", total) as advance:
            for turn in range(plan.rounds):
                due = poisson_arrivals(rate, plan.count(rate), (plan.seed, step, turn))
                for index in _order(len(standing), turn):
                    one = standing[index]
                    found = await send_round(
                        client, one.endpoint, one.payloads, due, plan.timeout_s
                    )
                    rounds[index].append(found)
                    advance(1)
        kept = []
        for target, start, made in zip(standing, before, rounds, strict=True):
            server = between(start, await read_counters(client, target.endpoint))
            row = _row(target, plan, rate, made).model_copy(
                update={"session": session, "server": server, "environment": environment}
            )
            yield row
            if holds(row):
                kept.append(target)
        standing, rate, step = kept, rate * plan.growth, step + 1


def _order(count: int, turn: int) -> list[int]:
    """Return who goes first, second and so on: forwards and backwards in turn."""
    return list(range(count))[:: -1 if turn % 2 else 1]


def _row(target: Target, plan: Plan, rate: float, rounds: Sequence[Round]) -> LoadRow:
    statuses: Counter[str] = Counter()
    for one in rounds:
        statuses.update({str(status): n for status, n in one.statuses.items()})
    lags = np.concatenate([one.lags_ns for one in rounds])
    arrays = target.payloads[0].arrays
    return LoadRow(
        session="",
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        url=target.endpoint.url,
        model=target.endpoint.model,
        about=dict(target.endpoint.about),
        rate_per_s=rate,
        rows=len(next(iter(arrays.values()))),
        objective_ms=plan.objective_ms,
        timeout_ms=plan.timeout_s * 1e3,
        rounds_ns=[one.latencies_ns for one in rounds],
        statuses=dict(sorted(statuses.items())),
        seconds=sum(one.seconds for one in rounds),
        lag_p99_ms=float(np.percentile(lags, 99)) / 1e6,
        environment={},
    )
