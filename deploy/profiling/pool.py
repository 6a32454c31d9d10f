"""All configurations of all bundles beside each other: launched anew, warmed up, timed, evaluated.

Processes of a pool are loaded at the same time, and their rounds are interleaved in one random
order, so that any two of them are paired. What memory does not hold goes into another pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from deploy.audit import Audit
from deploy.bundle import GOLDEN, Bundle
from deploy.profiling.cuda_graphs import check_cuda_graph
from deploy.profiling.evaluation import EvaluationSet
from deploy.profiling.results import Block, Clock
from deploy.profiling.scoring import Scores, scores_from
from deploy.profiling.workers import WorkerProcess, time_interleaved
from deploy.sessions import Configuration, Engine, Running
from trueint8.errors import TrueInt8Error
from trueint8.progress import Progress

ROUNDS_PER_LAUNCH = 3
MOST_LAUNCHES = 5
"""That are made of rounds where nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class Unit:
    """An engine of a bundle: configurations that are never apart.

    Attributes:
        bundle: That holds the engine.
        engine: That runs here.
        audit: Of its INT8 graph.
        data: What all run; ``data_file`` holds it for other processes.
        data_file: In a folder that others of the bundle may write to.
        paths: What is opened, by configuration; FP32 comes first.
        running: How.
        cuda_graph: Whether it must replay CUDA graphs; None for whatever it was built for.
    """

    bundle: Bundle
    engine: Engine
    audit: Audit
    data: EvaluationSet
    data_file: Path
    paths: dict[Configuration, Path]
    running: Running
    cuda_graph: bool | None = None

    @property
    def title(self) -> str:
        """Bundle and engine, for people."""
        return f"{self.bundle.path.name} on {self.engine.name}"


Key = tuple[int, Configuration]
"""A unit's number, and one of its configurations."""


@dataclass(slots=True)
class Timed:
    """What was learnt of one configuration; lists launch by launch."""

    warmup_ns: list[int] = field(default_factory=list)
    """Of the first launch."""
    rounds_ns: list[list[int]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    load_s: list[float] = field(default_factory=list)
    peak_kib: int = 0
    pss_kib: int = 0
    device_memory: dict[str, Any] | None = None
    cuda_graph: bool | None = None
    scores: Scores | None = None
    golden_error: float | None = None
    """FP32 only."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What came of the units that fit into memory together.

    Attributes:
        timed: By unit and configuration.
        error: What kept the next unit from being loaded, if it failed.
    """

    timed: dict[Key, Timed]
    error: TrueInt8Error | None


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: see :class:`deploy.profiling.measurement.ProfileRequest`."""

    rounds: int
    launches: int
    round_ms: float
    seed: int
    timeout_s: float
    clock: Clock


def launches_of(rounds: int, launches: int | None) -> int:
    """Return over how many launches rounds are spread: at most 5, of at least 3 rounds each."""
    return launches or max(1, min(MOST_LAUNCHES, rounds // ROUNDS_PER_LAUNCH))


def run_pool(units: Sequence[Unit], effort: Effort, progress: Progress) -> Pool:
    """Time the first of ``units``, as many as memory holds at a time; at least one.

    Raises:
        RunError: If the first unit fails, or any once it has been loaded.
    """
    each = -(-effort.rounds // effort.launches)
    pool = _Launches(units, effort, progress)
    for launch in range(effort.launches):
        with ExitStack() as stack:
            workers = pool.opened(stack, first=launch == 0)
            title = f"time {len(workers)} configurations"
            title += f", launch {launch + 1} of {effort.launches}" * (effort.launches > 1)
            with progress.step(title, total=each) as advance:
                rounds, asides = time_interleaved(
                    workers,
                    {key: pool.timed[key].warmup_ns for key in workers},
                    rounds=each,
                    round_ms=effort.round_ms,
                    seed=effort.seed + launch,
                    advance=advance,
                    clock=effort.clock,
                )
            for key, timed in pool.timed.items():
                timed.rounds_ns += rounds[key]
                timed.blocks += asides[key].blocks
                timed.peak_kib = max(timed.peak_kib, *asides[key].peak_kib)
                timed.pss_kib = max(timed.pss_kib, *asides[key].pss_kib)
                timed.device_memory = asides[key].device_memory
            if launch == effort.launches - 1:
                pool.evaluate(workers)
    return Pool(pool.timed, pool.error)


class _Launches:
    """The same configurations, opened again and again in processes of their own."""

    def __init__(self, units: Sequence[Unit], effort: Effort, progress: Progress) -> None:
        self._units, self._effort, self._progress = list(units), effort, progress
        self.timed: dict[Key, Timed] = {}
        self.error: TrueInt8Error | None = None

    def opened(self, stack: ExitStack, *, first: bool) -> dict[Key, WorkerProcess]:
        """Start, load and warm up every process; the first time decides which units take part."""
        workers: dict[Key, WorkerProcess] = {}
        held: list[int] = [0]
        for number, unit in enumerate(self._units):
            if first and number and psutil.virtual_memory().available < 1.5 * max(held):
                self._units = self._units[:number]
                break
            before = psutil.virtual_memory().available
            try:
                found = self._open_unit(stack, number, unit)
            except TrueInt8Error as err:
                if not (first and workers):
                    raise
                self.error, self._units = err, self._units[:number]
                break
            workers |= found
            held.append(before - psutil.virtual_memory().available)
        return workers

    def _open_unit(self, stack: ExitStack, number: int, unit: Unit) -> dict[Key, WorkerProcess]:
        found: dict[Key, WorkerProcess] = {}
        told: dict[Key, Timed] = {}
        with self._progress.step(f"load {unit.title}", total=len(unit.paths)) as advance:
            for c in unit.paths:  # all at once: they import while others do
                worker = WorkerProcess(f"{unit.title}, {c.name}", self._effort.timeout_s)
                found[number, c] = stack.enter_context(worker)
            for c, path in unit.paths.items():
                worker = found[number, c]
                loaded = worker.open(unit.engine.name, path, c, unit.running)
                warmup = worker.ask("warm_up", data=str(unit.data_file))["times_ns"]
                timed = self.timed.get((number, c)) or Timed(warmup)
                timed.load_s.append(loaded)
                timed.cuda_graph = worker.captures
                check_cuda_graph(unit.cuda_graph, timed.cuda_graph, worker.label, c)
                told[number, c] = timed
                advance(1)
        self.timed |= told
        return found

    def evaluate(self, workers: dict[Key, WorkerProcess]) -> None:
        """Compute the accuracy of every configuration, and how far FP32 is from golden outputs."""
        for number, unit in enumerate(self._units):
            mine = {c: workers[number, c] for c in unit.paths}
            reference = str(unit.data_file.with_name(f"{unit.engine.name}-reference.npz"))
            with self._progress.step(f"accuracy {unit.title}", total=len(mine)) as advance:
                for index, (c, worker) in enumerate(mine.items()):
                    answer: dict[str, Any] = worker.ask(
                        "scores", reference=reference, is_reference=index == 0
                    )
                    self.timed[number, c].scores = scores_from(answer)
                    advance(1)
            first, worker = next(iter(mine.items()))
            told = worker.ask("golden_error", golden=str(unit.bundle.path / GOLDEN))
            self.timed[number, first].golden_error = told["relative_error"]
