"""Time sessions of one engine in turn: whole calls without profiling, kernels beside them."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from deploy.profiling.statistics import quantile_ms
from deploy.sessions import Configuration, Engine, Running, Session

Batch = Mapping[str, np.ndarray]

K = TypeVar("K", bound=Hashable)

_RUNS_PER_ROUND = (3, 100)
_WARM_UPS = 3


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """One session's times.

    Attributes:
        rounds_ns: Of whole calls without profiling, a list per round.
        profiled_ns: Of whole calls in which kernels were timed, in the same rounds.
        kernel_rounds_ns: Per round, the mean per run of every kernel.
        device_rounds_ns: Of the calls without profiling, what lay between the device's own events
            around all kernels; 0 where a session has no such clock.
        outputs: Of one call.
    """

    outputs: Batch
    rounds_ns: list[list[int]] = field(default_factory=list)
    profiled_ns: list[list[int]] = field(default_factory=list)
    kernel_rounds_ns: list[dict[str, float]] = field(default_factory=list)
    device_rounds_ns: list[list[int]] = field(default_factory=list)

    @property
    def latency_ns(self) -> float:
        """Return the median of the calls without profiling."""
        return quantile_ms(self.rounds_ns, 50) * 1e6

    @property
    def kernels_ns(self) -> dict[str, float]:
        """Return what kernels take of a call as long as the median.

        Both sides of a round saw the same machine, so kernels are held against the calls of their
        own round: of the round whose ratio is the median, brought to the median call.
        """
        means = [float(np.mean(calls)) for calls in self.rounds_ns]
        ratios = [sum(k.values()) / m for k, m in zip(self.kernel_rounds_ns, means, strict=True)]
        middle = int(np.argsort(ratios)[len(ratios) // 2])
        drift = self.latency_ns / means[middle]
        return {name: time * drift for name, time in self.kernel_rounds_ns[middle].items()}

    @property
    def outside_ns(self) -> float:
        """Return what a call takes beyond its kernels: the median over rounds."""
        rounds = zip(self.rounds_ns, self.kernel_rounds_ns, strict=True)
        return float(np.median([np.mean(calls) - sum(k.values()) for calls, k in rounds]))

    @property
    def beside_device_ns(self) -> float:
        """Return what a call takes beside what the device's events enclose, as the same."""
        rounds = zip(self.rounds_ns, self.device_rounds_ns, strict=True)
        return float(np.median([np.mean(calls) - np.mean(device) for calls, device in rounds]))


def time_interleaved_sessions(
    engine: Engine,
    paths: Mapping[K, tuple[Path, Configuration]],
    running: Running,
    batch: Batch,
    *,
    rounds: int,
    round_ms: float,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[K, SessionTimes]:
    """Run each session in every round, without profiling and with it, in an order drawn anew.

    A profiled session is opened anew each round, since engines of graphs keep averages for as long
    as a session lives; those of checkpoints, which compile for long, keep sums instead.

    Args:
        engine: That runs here.
        paths: What to open, as of :meth:`Engine.open`.
        running: How.
        batch: What every call is given.
        rounds: How many.
        round_ms: Aim for one session's calls in a round; there are at least 3.
        advance: Called after each round.

    Raises:
        RunError: If a session cannot be opened or fails.
    """
    order = random.Random(0)
    with ExitStack() as stack:
        sessions = {
            key: stack.enter_context(engine.open(path, configuration, running))
            for key, (path, configuration) in paths.items()
        }
        times = {key: SessionTimes(session.run(batch)) for key, session in sessions.items()}
        runs = {k: _runs_per_round(s, batch, round_ms) for k, s in sessions.items()}
        watches = {
            key: stack.enter_context(_Watch(engine, *opened, running))
            for key, opened in paths.items()
        }
        for _ in range(rounds):
            for key in order.sample(list(sessions), len(sessions)):
                sessions[key].run(batch)
                device: list[int] = []
                times[key].rounds_ns.append(_timed(sessions[key], batch, runs[key], device))
                times[key].device_rounds_ns.append(device)
                calls, kernels = watches[key].round(batch, runs[key])
                times[key].profiled_ns.append(calls)
                times[key].kernel_rounds_ns.append(kernels)
            advance(1)
    return times


class _Watch:
    """The profiled sessions of one configuration; a context manager."""

    def __init__(
        self, engine: Engine, path: Path, configuration: Configuration, running: Running
    ) -> None:
        self._engine, self._opened = engine, (path, configuration)
        self._running = replace(running, profiled=True)
        self._keeps = engine.runs_checkpoint
        self._kept: Session | None = None
        self._runs = 0

    def round(self, batch: Batch, runs: int) -> tuple[list[int], dict[str, float]]:
        """Return the times of so many calls, and the mean per call of every kernel in them."""
        if not self._keeps:
            with self._open() as session:
                session.run(batch)
                return _timed(session, batch, runs), session.kernel_times()
        if self._kept is None:
            self._kept = self._open()
        self._kept.run(batch)
        self._runs += 1
        before = self._sums(self._kept)
        calls = _timed(self._kept, batch, runs)
        self._runs += runs
        after = self._sums(self._kept)
        return calls, {name: (t - before.get(name, 0.0)) / runs for name, t in after.items()}

    def _open(self) -> Session:
        return self._engine.open(*self._opened, self._running)

    def _sums(self, session: Session) -> dict[str, float]:
        return {name: t * self._runs for name, t in session.kernel_times().items()}

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._kept is not None:
            self._kept.close()


def _runs_per_round(session: Session, batch: Batch, round_ms: float) -> int:
    least, most = _RUNS_PER_ROUND
    fastest = min(_timed(session, batch, _WARM_UPS))
    return min(most, max(least, math.ceil(round_ms * 1e6 / fastest)))


def _timed(session: Session, batch: Batch, runs: int, device: list[int] | None = None) -> list[int]:
    """Return the host's times of calls, and append the device's to ``device``."""
    times = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        session.run(batch)
        times.append(time.perf_counter_ns() - start)
        if device is not None:
            device.append(getattr(session, "device_ns", 0))
    return times
