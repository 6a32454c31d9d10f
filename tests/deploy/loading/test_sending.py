"""When requests are sent, and from when their latency counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from scipy import stats

from deploy.loading.endpoint import _last_of
from deploy.loading.sending import NO_ANSWER, Round, poisson_arrivals, send_round
from tests.deploy.loading.servers import PAYLOAD, Answer, answering, one_at_a_time


def test_arrivals_are_those_of_a_poisson_process() -> None:
    due = poisson_arrivals(200.0, 20_000, (1, 2, 3))
    gaps = np.diff(due, prepend=0.0)
    assert (gaps > 0).all()
    assert stats.kstest(gaps, stats.expon(scale=1 / 200).cdf).pvalue > 0.01
    counts = np.bincount(due.astype(int))[:-1]  # per second: mean and variance are the rate
    assert abs(counts.var() / counts.mean() - 1) < 0.4
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.03, "gaps know nothing of each other"
    np.testing.assert_array_equal(due, poisson_arrivals(200.0, 20_000, (1, 2, 3)))
    assert (due[:9] != poisson_arrivals(200.0, 9, (1, 2, 4))).all()


def send(answer: Answer, due_s: Sequence[float], timeout_s: float) -> Round:
    async def main() -> Round:
        connector = aiohttp.TCPConnector(limit=0)
        async with answering(answer) as endpoint, aiohttp.ClientSession(connector=connector) as c:
            return await send_round(c, endpoint, [PAYLOAD], np.array(due_s), timeout_s)

    return asyncio.run(main())


def test_latency_counts_the_wait_behind_others() -> None:
    """All are due at once and served one after the other: the n-th waits for n others."""
    service_s, count = 0.02, 12
    found = send(one_at_a_time(service_s), [0.0] * count, 30)
    assert found.statuses == {200: count}
    waited = np.sort(found.latencies_ns) / 1e9
    assert (waited >= service_s * np.arange(1, count + 1)).all()
    assert found.seconds >= service_s * count


def test_requests_do_not_wait_for_earlier_answers() -> None:
    """A closed loop of any number of clients would have fewer inside than were due."""
    inside = most = 0
    everyone = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 40:
            everyone.set()
        await everyone.wait()
        return web.Response(body=b"{}")

    found = send(answer, np.linspace(0, 0.2, 40).tolist(), 30)
    assert most == 40 and found.statuses == {200: 40}


def test_what_gets_no_answer_counts_as_the_timeout() -> None:
    asked = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked % 3 == 0:
            await asyncio.sleep(60)
        return web.Response(body=b"{}", status=200 if asked % 3 == 1 else 429)

    found = send(answer, [0.02 * n for n in range(9)], 0.5)
    assert found.statuses == {200: 3, 429: 3, NO_ANSWER: 3}
    assert sorted(found.latencies_ns)[3:] == [500_000_000] * 6
    assert max(sorted(found.latencies_ns)[:3]) < 500_000_000


def test_a_late_client_is_in_the_latency() -> None:
    """The event loop is held up: what is due meanwhile is sent late, and says so."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=b"{}")

    async def main() -> Round:
        async with answering(answer) as endpoint, aiohttp.ClientSession() as client:
            sent = asyncio.create_task(
                send_round(client, endpoint, [PAYLOAD], np.array([0.05, 0.06, 0.07]), 30)
            )
            await asyncio.sleep(0.05)
            end = asyncio.get_running_loop().time() + 0.3
            while asyncio.get_running_loop().time() < end:
                pass
            return await sent

    found = asyncio.run(main())
    assert all(late >= lag for late, lag in zip(found.latencies_ns, found.lags_ns, strict=True))
    assert min(found.lags_ns[1:]) > 0.1e9


@pytest.mark.parametrize(
    ("versions", "last"), [(None, "0"), (["1", "10", "9"], "10"), (["v1", None, "2"], "2")]
)
def test_the_last_version_is_the_largest_number(versions: object, last: str) -> None:
    assert _last_of(versions) == last
