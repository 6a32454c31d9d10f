"""The run of a study: builds, then the cells that need them; nothing finished is done again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from deploy.study.cells import Build, Cell
from deploy.study.jobs import Backend, Job
from deploy.study.state import (
    Failure,
    Status,
    Step,
    StudyFolder,
    is_done,
    now,
    read_status,
    status_from,
    write_status,
)
from trueint8.progress import Advance, Progress


@dataclass(frozen=True, slots=True)
class Ended:
    """A cell of the study and how it ended; None before it did."""

    cell: Cell
    status: Status | None


Tell = Callable[[Ended], str]
"""Returns one line about a cell that ended."""


def ended_cells(cells: Sequence[Cell], folder: StudyFolder) -> list[Ended]:
    """Return how far every cell is."""
    return [Ended(cell, folder.status_of(cell)) for cell in cells]


def run_study(
    cells: Sequence[Cell],
    folder: StudyFolder,
    backend: Backend,
    progress: Progress,
    *,
    home: Path,
    retry_failed: bool,
    tell: Tell,
) -> list[Ended]:
    """Run every cell that has not ended, and collect the rows of all that did.

    A cell that failed stays so unless ``retry_failed``; others go on whatever one does. Ctrl-C ends
    the jobs that run, which then are as if never begun.

    Args:
        cells: Of the study.
        folder: Locked by the caller.
        backend: Runs the jobs; closed at the end.
        progress: Moves by cells.
        home: The study file's folder.
        retry_failed: Whether builds and cells that failed are tried again.
        tell: Its line is shown when a cell ends.

    Raises:
        StorageError: If the folder cannot be written.
    """
    try:
        folder.describe(cells)
        run = _Run(folder, backend, home, retry_failed)
        with progress.step("study", total=len(cells)) as advance:
            shown = _Shown(progress, advance, tell, len(cells))
            todo = [cell for cell in cells if run.is_open(cell)]
            shown.skip(len(cells) - len(todo))
            ended = run.begin(todo)
            while ended or run.pending:
                folder.collect(cells)
                for cell in ended:
                    shown.one(cell)
                ended = run.next() if run.pending else []
        folder.collect(cells)
    finally:
        backend.close()
    return ended_cells(cells, folder)


@dataclass(slots=True)
class _Shown:
    """What is shown of cells as they end."""

    progress: Progress
    advance: Advance
    tell: Tell
    total: int
    skipped: int = 0
    ended: int = 0
    begun: float = field(default_factory=time.monotonic)

    def skip(self, count: int) -> None:
        """Count cells that ended in a former run."""
        self.skipped = count
        if count:
            self.advance(count)
            self.progress.say(f"{count} of {self.total} cells ended before, and are kept")

    def one(self, ended: Ended) -> None:
        """Show a cell, and how long the others will take at the pace so far."""
        self.ended += 1
        self.advance(1)
        done = self.skipped + self.ended
        seconds = (time.monotonic() - self.begun) / self.ended * (self.total - done)
        left = f", about {math.ceil(seconds / 60)} min left" if done < self.total else ""
        self.progress.say(f"[{done}/{self.total}{left}] {self.tell(ended)}")


class _Run:
    """Jobs under way, and the cells that wait for builds."""

    def __init__(
        self, folder: StudyFolder, backend: Backend, home: Path, retry_failed: bool
    ) -> None:
        self._folder = folder
        self._backend = backend
        self._home = home
        self._retry = retry_failed
        self._waiting: dict[str, list[Cell]] = {}
        self.pending: dict[Future[None], Build | Cell] = {}

    def is_open(self, thing: Build | Cell) -> bool:
        """Tell whether something is still to be done."""
        status = self._folder.status_of(thing)
        return status is None or (self._retry and status.failure is not None)

    def begin(self, cells: Sequence[Cell]) -> list[Ended]:
        """Submit what nothing stands in the way of; return the cells that end for want of it."""
        builds = {cell.build.id: cell.build for cell in cells}
        for cell in cells:
            self._waiting.setdefault(cell.build.id, []).append(cell)
        settled = []
        for build in builds.values():
            if self.is_open(build):
                self._submit(build, "build", self._folder.prepare_build(build))
            else:
                settled.append(build)
        return [ended for build in settled for ended in self._go_on(build)]

    def next(self) -> list[Ended]:
        """Wait for a job; submit what it makes possible, and return the cells that ended by it."""
        finished, _ = wait(self.pending, return_when=FIRST_COMPLETED)
        ended: list[Ended] = []
        for future in finished:
            owner = self.pending.pop(future)
            step: Step = "build" if isinstance(owner, Build) else "profile"
            path = self._folder.of(owner)
            error = future.exception()
            if error is not None and read_status(path) is None:
                write_status(path, status_from(now(), _not_run(step, error, path)))
            if isinstance(owner, Build):
                ended += self._go_on(owner)
            else:
                ended.append(Ended(owner, read_status(path)))
        return ended

    def _go_on(self, build: Build) -> list[Ended]:
        """Submit the cells that waited for a build, or end them with its failure."""
        status = self._folder.status_of(build)
        ended = []
        for cell in self._waiting.pop(build.id):
            path = self._folder.prepare_cell(cell)
            if is_done(status):
                self._submit(cell, "profile", path)
            else:
                write_status(path, status_from(now(), status.failure if status else None))
                ended.append(Ended(cell, read_status(path)))
        return ended

    def _submit(self, owner: Build | Cell, step: Step, path: Path) -> None:
        self.pending[self._backend.submit(Job(step, path, self._home))] = owner


def _not_run(step: Step, error: BaseException, path: Path) -> Failure:
    last = (str(error).strip().splitlines() or ["no message"])[-1]
    return Failure(
        step=step,
        error=type(error).__name__,
        problem=f"the job could not be run: {type(error).__name__}: {last}",
        fix=f"every machine in use needs trueint8, the data, and {path} under these paths",
    )
