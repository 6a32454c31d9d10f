"""What a study asks a backend to do, and how it is done: one process per job.

A timed job has its machine to itself. Whoever runs jobs on a machine, and however many studies do,
they agree through a lock on one file of that machine: a timed job holds it alone, builds share it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deploy.study.state import LOG, Failure, Step, now, read_status, status_from, write_status
from trueint8.artifacts import storage_errors

MACHINE_LOCK = Path("/tmp/trueint8-study.lock")
"""Not where TMPDIR says, which may differ between the users of one machine."""

_POLL_S = 0.2

GRACE_S = 10.0
"""Between SIGTERM and SIGKILL."""

_HOME = Path(__file__).resolve().parents[2]
_WORK = "from deploy.study.work import main; main()"


@dataclass(frozen=True, slots=True)
class Job:
    """One process: a build, or the profile of a cell.

    Attributes:
        step: Which of the two.
        folder: Of the build or the cell; on a file system that every machine in use shares.
        home: The study file's folder, in which it runs.
    """

    step: Step
    folder: Path
    home: Path

    @property
    def timed(self) -> bool:
        """Whether it must share neither cores nor GPU."""
        return self.step == "profile"


class Backend(Protocol):
    """Where jobs run. A backend is a file of ``deploy/study/backends``.

    Another queue takes one more file there. Slurm by way of submitit: ``submit`` hands
    ``Processes().run`` with the job to an executor whose ``slurm_additional_parameters`` say
    ``exclusive`` for timed jobs, and a thread completes the future when its job is done.
    """

    def submit(self, job: Job) -> Future[None]:
        """Run :meth:`Processes.run` somewhere; builds are submitted before what needs them.

        The future raises only where the job could not be run: failures are in the job's status.
        """

    def close(self) -> None:
        """End every job that still runs, at once, and let go of what the backend holds."""


class Processes:
    """Runs jobs on this machine, and ends them all when told to."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._guard = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, job: Job) -> None:
        """Wait until the machine is free, run one job, and see that it has a status.

        A job that :meth:`stop` ends has none.

        Raises:
            OSError: If the folder is not to be seen from this machine, or not writable.
        """
        with _machine(alone=job.timed, stopped=self._stopped) as lock:
            began = now()
            process = self._start(job, lock)
            if process is None:
                return
            assert process.stdin is not None
            while (code := process.poll()) is None:
                # not process.wait(), in which Ray's way to cancel would not be noticed
                time.sleep(_POLL_S)
            process.stdin.close()
            _end_group(process)  # what it started, if it was killed itself
            with self._guard:
                self._running.discard(process)
            if not self._stopped.is_set() and read_status(job.folder) is None:
                write_status(job.folder, status_from(began, _died(job, code)))

    def stop(self) -> None:
        """End all jobs: first by SIGTERM, upon which they remove what is half-written."""
        self._stopped.set()
        with self._guard:
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            _end_group(process)

    def _start(self, job: Job, lock: int) -> subprocess.Popen[bytes] | None:
        """Start a job's process, unless all are to end.

        It inherits the lock, which so outlives this process until the job is gone too, and a pipe
        that tells it of that end.
        """
        with self._guard, (job.folder / LOG).open("wb") as log:
            if self._stopped.is_set():
                return None
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _WORK, job.step, str(job.folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=job.home,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_HOME), *_search_path()])},
                start_new_session=True,
                pass_fds=[lock],
            )
            self._running.add(process)
            return process


def _search_path() -> list[str]:
    """Return where this process finds modules, less the folder it was started in."""
    return [path for path in sys.path if path]


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _died(job: Job, code: int) -> Failure:
    killed = f"signal {-code}" if code < 0 else f"exit code {code}"
    return Failure(
        step=job.step,
        error="RunError",
        problem=f"the process died ({'out of memory, or killed' if code == -9 else killed})",
        fix=f"{LOG} in its folder holds its last words",
    )


@contextlib.contextmanager
def _machine(*, alone: bool, stopped: threading.Event) -> Iterator[int]:
    """Hold this machine's lock, alone or shared; give up waiting once ``stopped``."""
    with storage_errors(MACHINE_LOCK):
        handle = _open_lock()
    try:
        while not stopped.is_set():
            try:
                fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                stopped.wait(_POLL_S)
        yield handle
    finally:
        os.close(handle)


def _open_lock() -> int:
    """Open the lock's file, which may be another user's: hence for reading."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(MACHINE_LOCK, os.O_RDONLY | os.O_NOFOLLOW)
        with contextlib.suppress(FileExistsError):
            return os.open(MACHINE_LOCK, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644)
