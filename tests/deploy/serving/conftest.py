"""Bundles that are served, and real server processes."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator

import pytest

from deploy.bundle import Bundle
from tests.deploy.running import start
from tests.deploy.serving.asking import Client

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")


class Server:
    """A real process, its address, and a client for it."""

    def __init__(self, *arguments: object) -> None:
        self.process: subprocess.Popen[str] = start("serve", "--port", 0, *arguments)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if found is None:
            self.process.kill()
            raise AssertionError(line + self.process.communicate()[1])
        self.port = int(found[1])
        self._clients: list[Client] = []

    def client(self, token: str | None = None) -> Client:
        """Return a client that :meth:`end` closes."""
        self._clients.append(Client(self.port, token))
        return self._clients[-1]

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        self.process.kill()
        self.process.communicate()
        for client in self._clients:
            client.close()

    def stop(self) -> tuple[int, str]:
        """End it as a service manager does; return exit code and standard error."""
        self.process.terminate()
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@contextlib.contextmanager
def serving(*arguments: object) -> Iterator[Server]:
    server = Server(*arguments)
    try:
        yield server
    finally:
        server.end()


@pytest.fixture(scope="session")
def server(classifier: Bundle) -> Iterator[Server]:
    """One for all tests that leave it as it was."""
    with serving(classifier.path, "--name", "m") as found:
        yield found
