"""How many samples a second an engine gives when several requests run at a time.

Each stream is a thread that runs batch after batch until the round is over:

    samples/s of a round = Σ over streams of batch · runs ÷ seconds those runs took

Streams share one engine where its sessions can (``another``), else each has a session of its own
with its share of the threads.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deploy.profiling.evaluation import EvaluationSet
from deploy.profiling.pool import Effort, Unit
from deploy.profiling.results import Throughput
from deploy.profiling.workers import WorkerProcess
from deploy.sessions import Configuration
from trueint8.progress import Progress


@dataclass(frozen=True, slots=True)
class Demand:
    """Sequences per request, and requests at a time."""

    batch: int
    streams: int


def measure_throughput(
    unit: Unit, demands: Sequence[Demand], effort: Effort, scratch: Path, progress: Progress
) -> dict[Configuration, list[Throughput]]:
    """Run every float and INT8 configuration of a unit under each demand, beside each other.

    Args:
        unit: What is measured.
        demands: Of batches and streams.
        effort: How much, as for latency.
        scratch: A folder for the batches.
        progress: Where progress is shown.

    Raises:
        RunError: If an engine does not take the batch, or fails.
    """
    chosen = {c: path for c, path in unit.paths.items() if c.graph != "simulated"}
    found: dict[Configuration, list[Throughput]] = {c: [] for c in chosen}
    for demand in demands:
        data = scratch / f"batch-{demand.batch}.npz"
        _batch_of(unit.data, demand.batch).save(data)
        title = f"throughput {unit.title}, batch {demand.batch}, {demand.streams} streams"
        rounds: dict[Configuration, list[list[tuple[int, int]]]] = {c: [] for c in chosen}
        with progress.step(title, total=effort.launches) as advance:
            for launch in range(effort.launches):
                for c, told in _launched(unit, chosen, demand, data, effort, launch).items():
                    rounds[c] += told
                advance(1)
        for c in chosen:
            found[c].append(
                Throughput(
                    batch=demand.batch,
                    streams=demand.streams,
                    rounds=rounds[c],
                    launches=effort.launches,
                )
            )
    return found


def _launched(
    unit: Unit,
    chosen: Mapping[Configuration, Path],
    demand: Demand,
    data: Path,
    effort: Effort,
    launch: int,
) -> dict[Configuration, list[list[tuple[int, int]]]]:
    order = random.Random(effort.seed + launch)
    told: dict[Configuration, list[list[tuple[int, int]]]] = {c: [] for c in chosen}
    running = replace(unit.running, streams=demand.streams)
    with ExitStack() as stack:
        workers = {
            c: stack.enter_context(WorkerProcess(f"{unit.title}, {c.name}", effort.timeout_s))
            for c in chosen
        }
        for c, worker in workers.items():
            worker.open(unit.engine.name, chosen[c], c, running)
            worker.ask("warm_up", data=str(data))
            worker.ask("load", round_ms=effort.round_ms)  # every stream's first runs
        for _ in range(-(-effort.rounds // effort.launches)):
            for c in order.sample(list(workers), len(workers)):
                answer = workers[c].ask("load", round_ms=effort.round_ms)
                told[c].append([(int(n), int(ns)) for n, ns in answer["streams"]])
    return told


def _batch_of(data: EvaluationSet, count: int) -> EvaluationSet:
    """Return one batch of ``count`` sequences: those of the first batch, again and again."""
    rows = {name: np.arange(count) % len(array) for name, array in data.batches[0].items()}
    batch = {name: array[rows[name]] for name, array in data.batches[0].items()}
    return EvaluationSet("cosine", [batch], [])
