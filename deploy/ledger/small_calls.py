"""What a checkpoint's modules spend outside their kernels: measured on a batch that is hardly one.

Torch's Python starts every operator of a module, whatever its tensors hold. The same module is
therefore given two rows of two tokens, and what such a call takes beyond its kernels,

    latency − Σ kernel times,

is what a call of any size takes. What timing adds to each kernel is in both sums of kernels, and
is taken back here. The batch runs on one thread: operators are started on one, and where others
wait for work on a busy machine, nothing else can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from calib.inputs import GraphInput
from deploy.graph_shapes import shapes_text
from deploy.ledger.dispatch import Dispatch
from deploy.ledger.timing import Batch, time_interleaved_sessions
from deploy.sessions import Configuration, Engine, Running
from trueint8.errors import ConfigError

_LENGTH = 2
"""Of each dynamic axis: torch's compiler makes other kernels of an axis of one."""


def small_batch(batch: Batch, inputs: Sequence[GraphInput]) -> Batch:
    """Return the first rows and tokens of a batch.

    Args:
        batch: What the model is given.
        inputs: Of the model, with its dynamic axes.

    Raises:
        ConfigError: If that is the batch itself, from which nothing can be told apart.
    """
    cut = {
        i.name: tuple(slice(_LENGTH if length is None else None) for length in i.shape)
        for i in inputs
    }
    small = {name: array[cut[name]] for name, array in batch.items()}
    if all(small[name].size == array.size for name, array in batch.items()):
        shapes = shapes_text({name: array.shape for name, array in batch.items()})
        raise ConfigError(
            f"what a checkpoint's modules take outside kernels is measured on {_LENGTH} rows of a "
            f"batch that has more: {shapes}",
            fix="pass --shapes with more rows, or --engine with engines of graphs",
        )
    return small


def measure_small_calls(
    engine: Engine,
    path: Path,
    configuration: Configuration,
    running: Running,
    small: Batch,
    *,
    rounds: int,
    round_ms: float,
) -> Dispatch:
    """Time calls that compute next to nothing, and their kernels.

    Args:
        engine: That runs the checkpoint here.
        path: As of :meth:`Engine.open`.
        configuration: The same.
        running: The same.
        small: From :func:`small_batch`.
        rounds: As of :func:`time_interleaved_sessions`.
        round_ms: The same.

    Raises:
        RunError: If the engine fails.
    """
    times = time_interleaved_sessions(
        engine,
        {configuration: (path, configuration)},
        replace(running, threads=1),
        small,
        rounds=rounds,
        round_ms=round_ms,
    )[configuration]
    latency, outside = times.latency_ns / 1e6, times.outside_ns / 1e6
    shapes = shapes_text({name: array.shape for name, array in small.items()})
    return Dispatch(
        times.outside_ns,
        f"of {latency:.2f} ms of a call with {shapes}, {outside:.2f} ms outside its kernels",
    )
