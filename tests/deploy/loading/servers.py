"""Servers of a known behaviour, on a real socket, and rows of known figures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from aiohttp import web

from deploy.loading.endpoint import Endpoint
from deploy.loading.payloads import Payload
from deploy.loading.rows import LoadRow

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

PAYLOAD = Payload(b"{}", {}, {"input_ids": np.ones((1, 4), np.int64)})


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[Endpoint]:
    """Serve one function under the path of inference."""
    app = web.Application()
    app.router.add_post("/v2/models/m/infer", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield Endpoint(f"http://127.0.0.1:{port}", "m", [], {}, "", {})
    finally:
        await runner.cleanup()


def one_at_a_time(seconds: float) -> Answer:
    """A server with one worker and a queue."""
    worker = asyncio.Lock()

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        async with worker:
            await asyncio.sleep(seconds)
        return web.Response(body=b"{}")

    return answer


def load_row(rate: float, p99_ms: float, **more: Any) -> LoadRow:
    """A row whose latencies are all ``p99_ms``, 5 rounds of 100."""
    given: dict[str, Any] = {
        "session": "s",
        "time": "2026-01-01T00:00:00+00:00",
        "url": "http://a",
        "model": "m",
        "about": {},
        "rate_per_s": rate,
        "rows": 1,
        "objective_ms": 50.0,
        "timeout_ms": 1000.0,
        "rounds_ns": [[round(p99_ms * 1e6)] * 100] * 5,
        "statuses": {"200": 500},
        "seconds": 500 / rate,
        "lag_p99_ms": 0.1,
        "environment": {"same_machine": True},
    }
    return LoadRow(**(given | more))
