"""The process: a socket, uvicorn, and a shutdown that answers everyone it let in."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
from types import FrameType

import uvicorn

from deploy.serving.app import build_app
from deploy.serving.service import Service
from trueint8.errors import ConfigError

GRACE_S = 1.0
"""After SIGTERM new connections are refused, and requests on open ones are answered this long.

Each answer closes its connection. A client that sends on an open connection just when it is closed
would get a reset instead of an answer.
"""

_IDLE_S = 75
"""More than pools of clients keep a connection: whoever closes it last gets no reset."""

_CONNECTIONS_PER_WAITING = 4
_BACKLOG = 512


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that already queues connections; port 0 takes a free one.

    Raises:
        ConfigError: If the address cannot be taken.
    """
    try:
        asked = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = asked[0]
        # asyncio turns Nagle's delay off only for sockets that say they are TCP
        with contextlib.ExitStack() as undo:
            found = undo.enter_context(socket.socket(family, kind, protocol))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(_BACKLOG)
            undo.pop_all()
    except (OSError, OverflowError) as err:
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {err}",
            fix="pass another --port, or --port 0 for a free one",
        ) from err
    return found


class _Server(uvicorn.Server):
    """Goes on for :data:`GRACE_S` after the first signal; a second one ends it at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._told = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Have the next tick drain; not recorded as captured, so that it ends with 0."""
        del frame
        if self._told:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT
        self._told = True

    async def on_tick(self, counter: int) -> bool:
        """Once told, refuse connections, then drain, and stop when the grace is over.

        In this order: answers of a draining server close their connections, so clients would
        connect again, and a socket that is closed resets those who wait in its queue.
        """
        if self._told and not self.should_exit:
            for _ in range(2):  # accepts who waits there now
                await asyncio.sleep(0)
            for server in self.servers:
                server.close()
            self._service.draining = True
            await asyncio.sleep(GRACE_S)
            self.should_exit = True
        return await super().on_tick(counter)


def run_server(service: Service, listening: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; returns when every request that was let in is answered."""
    config = uvicorn.Config(
        build_app(service),
        http="h11",
        ws="none",
        loop="asyncio",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_S,
        limit_concurrency=64 + _CONNECTIONS_PER_WAITING * service.limits.waiting,
        timeout_graceful_shutdown=math.ceil(service.limits.deadline_s) + 1,
    )
    _Server(config, service).run([listening])
