"""Two configurations launched beside each other, again and again, and compared."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from deploy.profiling.comparison import Comparison, Rounds, compare_launches
from deploy.profiling.workers import WorkerProcess, time_interleaved
from deploy.sessions import Configuration, Running
from trueint8.progress import Progress

_SIDES = ("A", "B", "control")

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a comparison: what a process opens, and its name for people."""

    label: str
    engine: str
    path: Path
    configuration: Configuration
    running: Running


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        launches: Fresh processes of each side.
        rounds: In each launch.
        round_ms: Aim for one side's round; it has at least 3 runs.
        seed: Of the order.
        timeout_s: Longest wait for one answer.
    """

    launches: int = 10
    rounds: int = 20
    round_ms: float = 15.0
    seed: int = 0
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Contest:
    """What was measured: rounds in ns per launch, by side."""

    samples: Mapping[str, list[Rounds]]
    unsettled: int
    """Processes that were still getting faster when their warm-up was ended."""

    def comparison(self) -> Comparison:
        """Return the comparison of B with A."""
        return compare_launches(*(self.samples[s] for s in ("A", "B", "control")))


def contest(a: Arm, b: Arm, data: Path, effort: Effort, progress: Progress) -> Contest:
    """Launch A, B and A again, each in a process of its own, and time them in turn.

    Args:
        a: The baseline.
        b: What is compared with it.
        data: What :meth:`deploy.profiling.evaluation.EvaluationSet.save` wrote; its first
            batch is run.
        effort: How much to measure.
        progress: Where progress is shown.

    Raises:
        RunError: If a side fails.
    """
    sides = {side: b if side == "B" else a for side in _SIDES}
    title = f"compare {a.label} with {b.label}"
    samples, unsettled = time_launches(sides, data, effort, progress, title)
    return Contest(samples, unsettled)


def time_launches(
    arms: Mapping[K, Arm], data: Path, effort: Effort, progress: Progress, title: str
) -> tuple[dict[K, list[Rounds]], int]:
    """Launch every arm in a process of its own, again and again, and time them in turn.

    Returns:
        Rounds in ns per launch, by arm; and how many processes were still getting faster when
        their warm-up was ended.
    """
    order = random.Random(effort.seed)
    samples: dict[K, list[Rounds]] = {key: [] for key in arms}
    unsettled = 0
    with progress.step(title, total=effort.launches * effort.rounds) as advance:
        for launch in range(effort.launches):
            with ExitStack() as stack:
                workers = {  # all at once: they import while others do
                    key: stack.enter_context(WorkerProcess(arms[key].label, effort.timeout_s))
                    for key in order.sample(list(arms), len(arms))
                }
                warmups = {}
                for key, worker in workers.items():
                    arm = arms[key]
                    worker.open(arm.engine, arm.path, arm.configuration, arm.running)
                    answer = worker.ask("warm_up", data=str(data))
                    warmups[key] = answer["times_ns"]
                    unsettled += not answer["settled"]
                times, _ = time_interleaved(
                    workers,
                    warmups,
                    rounds=effort.rounds,
                    round_ms=effort.round_ms,
                    seed=effort.seed + launch,
                    advance=advance,
                )
            for key in arms:
                samples[key].append(times[key])
    return samples, unsettled
