"""This machine: builds side by side as far as allowed, timed jobs one at a time."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from deploy.study.jobs import Job, Processes
from trueint8.errors import ConfigError


class LocalBackend:
    """Runs jobs here.

    Args:
        jobs: Builds at a time; one unless given.

    Raises:
        ConfigError: If that is less than one.
    """

    def __init__(self, jobs: int | None) -> None:
        if jobs is not None and jobs < 1:
            raise ConfigError(f"--jobs is {jobs}; expected 1 or more", fix="pass --jobs 1")
        self._processes = Processes()
        self._builds = ThreadPoolExecutor(jobs or 1)
        self._timed = ThreadPoolExecutor(1)

    def submit(self, job: Job) -> Future[None]:
        """Queue a job."""
        return (self._timed if job.timed else self._builds).submit(self._processes.run, job)

    def close(self) -> None:
        """Drop what is queued and end what runs."""
        for executor in (self._builds, self._timed):
            executor.shutdown(wait=False, cancel_futures=True)
        self._processes.stop()
        for executor in (self._builds, self._timed):
            executor.shutdown()


BACKEND = LocalBackend
