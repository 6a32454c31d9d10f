"""Progress of long steps: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TextIO

Advance = Callable[[int], None]

_LINE_EVERY_S = 5.0


class Progress(Protocol):
    """Shows steps to whoever is watching."""

    def step(
        self, title: str, total: int | None = None
    ) -> contextlib.AbstractContextManager[Advance]:
        """Open one step of ``total`` units (None: unknown) and yield ``advance(units)``."""

    def say(self, line: str) -> None:
        """Print one line that belongs to no step."""


class Silence:
    """Shows nothing; what the Python API uses unless told otherwise."""

    @contextlib.contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """Yield an ``advance`` that does nothing."""
        del title, total
        yield lambda units: None

    def say(self, line: str) -> None:
        """Print nothing."""


class Lines:
    """Plain lines, for logs and pipes: at the start, every five seconds, and at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @contextlib.contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """Yield an ``advance`` that prints at most every five seconds."""
        start = last = time.monotonic()
        done = 0

        def advance(units: int) -> None:
            nonlocal done, last
            done += units
            if time.monotonic() - last >= _LINE_EVERY_S:
                last = time.monotonic()
                of = f"/{total}" if total else ""
                self.say(f"{title}: {done}{of} after {last - start:.0f} s")

        self.say(f"{title} ...")
        yield advance
        self.say(f"{title}: done in {time.monotonic() - start:.1f} s")

    def say(self, line: str) -> None:
        """Print one line."""
        print(line, file=self._stream, flush=True)


class Bars:
    """Progress bars with elapsed and remaining time, on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream)

    @contextlib.contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """Yield an ``advance`` that moves the bar."""
        from rich import progress as bars

        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn() if total else bars.TextColumn(""),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn() if total else bars.TextColumn(""),
        )
        with bars.Progress(*columns, console=self._console) as shown:
            task = shown.add_task(title, total=total)
            yield lambda units: shown.advance(task, units)
            if total is None:
                shown.update(task, total=1, completed=1)

    def say(self, line: str) -> None:
        """Print one line above the bars."""
        self._console.print(line, markup=False, highlight=False)


def progress_for(*, quiet: bool = False, stream: TextIO | None = None) -> Progress:
    """Return the way to show progress that fits the stream (stderr unless given)."""
    if quiet:
        return Silence()
    target = stream if stream is not None else sys.stderr
    return Bars(target) if target.isatty() else Lines(target)
