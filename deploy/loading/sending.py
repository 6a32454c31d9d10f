"""Open-loop load: requests go out when they are due, whether or not earlier ones were answered.

A closed loop (so many clients, each waiting for its answer) slows down with the server and so hides
the time that requests would have waited; Schroeder, Wierman and Harchol-Balter 2006, "Open Versus
Closed: A Cautionary Tale". Latency is counted from the time a request was due, so what the client
itself is late by is in it too.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp
import numpy as np

from deploy.loading.endpoint import Endpoint
from deploy.loading.payloads import Payload

NO_ANSWER = 0
"""Status of a request whose connection failed, or whose time was up."""

_HEAD_START_S = 0.02
_NS = 1e9


@dataclass(frozen=True, slots=True)
class Round:
    """What became of one round's requests, in the order they were due.

    Attributes:
        latencies_ns: Until the answer was read; the timeout for a request without one.
        lags_ns: From when a request was due until the client began to send it.
        statuses: Requests by HTTP status.
        seconds: From the first request due to the last answer.
    """

    latencies_ns: list[int]
    lags_ns: list[int]
    statuses: Mapping[int, int]
    seconds: float


def poisson_arrivals(rate_per_s: float, count: int, seed: Sequence[int]) -> np.ndarray:
    """Return when each of ``count`` requests is due, in seconds, increasing from above 0.

    Gaps of a Poisson process are exponential and independent.
    """
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate_per_s, count))


async def send_round(
    client: aiohttp.ClientSession,
    endpoint: Endpoint,
    payloads: Sequence[Payload],
    due_s: np.ndarray,
    timeout_s: float,
) -> Round:
    """Send one request at each time it is due, and wait for all answers.

    Args:
        client: Sends; must not limit its connections.
        endpoint: Is asked.
        payloads: Sent in turn.
        due_s: As of :func:`poisson_arrivals`.
        timeout_s: From when a request is due; it is given up then.
    """
    start = time.perf_counter() + _HEAD_START_S
    lags = np.zeros(len(due_s))
    latencies = np.full(len(due_s), float(timeout_s))
    statuses: Counter[int] = Counter()

    async def ask(index: int) -> None:
        due = start + float(due_s[index])
        payload = payloads[index % len(payloads)]
        sent = time.perf_counter()
        lags[index] = sent - due
        status = NO_ANSWER
        try:
            async with asyncio.timeout(timeout_s - (sent - due)):
                async with client.post(
                    endpoint.infer,
                    data=payload.body,
                    headers={**payload.headers, **endpoint.headers},
                ) as answer:
                    await answer.read()
                    status = answer.status
        except (aiohttp.ClientError, OSError):  # TimeoutError is one of the latter
            pass
        if status == 200:
            latencies[index] = time.perf_counter() - due
        statuses[status] += 1

    async with asyncio.TaskGroup() as tasks:
        for index, due in enumerate(due_s):
            await asyncio.sleep(start + float(due) - time.perf_counter())
            tasks.create_task(ask(index))
    return Round(
        (latencies * _NS).astype(np.int64).tolist(),
        (lags * _NS).astype(np.int64).tolist(),
        dict(statuses),
        time.perf_counter() - start - float(due_s[0]),
    )
