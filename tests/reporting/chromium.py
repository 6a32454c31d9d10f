"""Chromium driven over a pipe: what a reader without a mouse does, and what they then see.

The browser speaks the DevTools protocol: one JSON object per message, ended by a zero byte, read
by the browser from its file descriptor 3 and written to 4.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)

_KEYS = {"Tab": 9, "Enter": 13, "Space": 32, "ArrowRight": 39, "ArrowDown": 40, "End": 35}
_TEXT = {"Enter": "\r", "Space": " "}
_SHIFT = 8


class Tab:
    """One page in a browser."""

    def __init__(self, to: BinaryIO, of: BinaryIO) -> None:
        """Open an empty page."""
        self._to, self._from, self._ids, self._session = to, of, itertools.count(1), ""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.ask("Page.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        wanted = next(self._ids)
        message: dict[str, Any] = {"id": wanted, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while (answer := self._next()).get("id") != wanted:
            pass
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, page: Path, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Show a file on a screen of a size, and wait until every chart is drawn."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=page.as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass
        self.run(
            "new Promise((done) => { const look = () => [...document.querySelectorAll("
            "'.chart')].every((c) => c.querySelector('svg')) ? done() : setTimeout(look, 20); "
            "look(); })"
        )

    def run(self, script: str) -> Any:
        """Return what an expression, or the promise it gives, comes to in the page."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and let go of a key."""
        code = {"key": " " if key == "Space" else key, "code": key}
        common = {**code, "windowsVirtualKeyCode": _KEYS[key], "modifiers": _SHIFT * shift}
        text = {"text": _TEXT[key]} if key in _TEXT else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **common)

    def picture(self, path: Path) -> None:
        """Save what the page looks like from top to bottom."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=self._whole())
        path.write_bytes(base64.b64decode(shot["data"]))

    def printed(self) -> bytes:
        """Return the page as a PDF."""
        return base64.b64decode(self.ask("Page.printToPDF", printBackground=False)["data"])

    def _whole(self) -> dict[str, float]:
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}

    def _next(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            assert byte, "the browser is gone"
            message += byte
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """Start a browser that keeps its files in a folder, and give one page of it."""
    assert CHROMIUM is not None
    line = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
        f"--user-data-dir={folder}", "--no-first-run",
    ]  # fmt: skip
    (commands, write), (read, answers) = os.pipe(), os.pipe()
    # away from 3 and 4, which the browser wants them at
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
    nowhere = [(os.POSIX_SPAWN_OPEN, out, os.devnull, os.O_WRONLY, 0) for out in (1, 2)]
    wanted = [(os.POSIX_SPAWN_DUP2, end, at) for end, at in zip(ends, (3, 4), strict=True)]
    process = os.posix_spawn(CHROMIUM, line, os.environ, file_actions=[*nowhere, *wanted])
    for end in (commands, answers, *ends):
        os.close(end)
    with os.fdopen(write, "wb") as to, os.fdopen(read, "rb") as of:
        try:
            yield Tab(to, of)
        finally:
            os.kill(process, signal.SIGTERM)
            os.waitpid(process, 0)
