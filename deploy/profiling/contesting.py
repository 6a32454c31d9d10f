"""Sides that people named, to a contest on one batch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deploy.bundle import GOLDEN
from deploy.golden import read_golden
from deploy.options import check_counts
from deploy.profiling.comparison import LEAST_LAUNCHES
from deploy.profiling.contest import Arm, Contest, Effort, contest
from deploy.profiling.evaluation import EvaluationSet
from deploy.profiling.measurement import ProfileRequest, check_rounds, evaluation_data
from deploy.sides import Side, check_same_inputs
from trueint8.errors import ConfigError, DataError, RunError
from trueint8.progress import Progress


@dataclass(frozen=True, slots=True)
class Batch:
    """What both sides run: the first batch of data, or A's golden inputs without ``data``."""

    data: str | None
    batch_size: int
    seq_len: int | None
    seed: int


def hold_contest(
    sides: Sequence[Side],
    batch: Batch,
    effort: Effort,
    *,
    threads: int | None,
    progress: Progress,
) -> Contest:
    """Check two sides, and time them beside each other.

    Raises:
        ConfigError: If they do not take the same inputs, or too little is asked for.
        RunError: If a side cannot run here, or fails.
    """
    if effort.launches < LEAST_LAUNCHES:
        raise ConfigError(
            f"{effort.launches} launches give no interval",
            fix=f"pass --launches {LEAST_LAUNCHES} or more",
        )
    check_rounds(effort.rounds)
    check_counts(batch, ("batch_size", "seq_len"))
    for side in sides:
        if not side.runs_here:
            raise RunError(
                f"{side.label} is BUILT and cannot run on this machine, so it has no latency",
                fix="compare what runs here, or pass --layers",
            )
    check_same_inputs(sides)
    with tempfile.TemporaryDirectory(prefix="trueint8-") as scratch:
        file = Path(scratch) / "batch.npz"
        _evaluation(sides[0], batch).save(file)
        a, b = (_arm(side, threads) for side in sides)
        return contest(a, b, file, effort, progress)


def _evaluation(side: Side, batch: Batch) -> EvaluationSet:
    if batch.data is None:
        return EvaluationSet("cosine", [dict(read_golden(side.bundle.path / GOLDEN).inputs)], [])
    path = Path(batch.data).expanduser()
    if not path.exists():
        raise DataError(
            f"no data at {path}", fix="pass --data with text or arrays, or leave it out"
        )
    amount = ProfileRequest(
        [], path, samples=batch.batch_size, batch_size=batch.batch_size,
        seq_len=batch.seq_len, seed=batch.seed,
    )  # fmt: skip
    return evaluation_data(amount, side.bundle)


def _arm(side: Side, threads: int | None) -> Arm:
    running = side.running if threads is None else replace(side.running, threads=threads)
    return Arm(side.label, side.engine.name, side.path, side.configuration, running)
