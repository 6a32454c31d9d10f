"""Who is inside: from a request that was let in until its answer has left the process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import Request

from deploy.serving.service import Service

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PART_BYTES = 65536
"""An answer is sent in such parts; the server's buffer would otherwise take all of it at once."""

_INSIDE = "trueint8.inside"
_BODY_LEFT = (401, 404, 408, 413, 415, 429)


def enter(service: Service, request: Request) -> None:
    """Let a request in until its answer is sent.

    Raises:
        Refusal: 429, as :meth:`Service.enter` does.
    """
    service.enter()
    request.scope[_INSIDE].append(True)


class Gate:
    """ASGI middleware that lets requests out, and ends connections in order while draining."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        inside: list[bool] = []

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                # what is left of a refused body would be read as the next request
                if self._service.draining or message["status"] in _BODY_LEFT:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
                await send(message)
                return
            # who reads too slowly holds memory
            async with asyncio.timeout(self._service.limits.deadline_s):
                await _send_parts(message, send)

        try:
            await self._app({**scope, _INSIDE: inside}, receive, send_on)
        finally:
            for _ in inside:
                self._service.leave()


async def _send_parts(message: Message, send: Send) -> None:
    body, more = message.get("body", b""), message.get("more_body", False)
    for start in range(0, max(len(body), 1), PART_BYTES):
        part = body[start : start + PART_BYTES]
        last = start + PART_BYTES >= len(body)
        await send({"type": message["type"], "body": part, "more_body": more or not last})
