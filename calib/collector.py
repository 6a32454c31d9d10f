"""One pass of the float graph over the calibration data, streaming into TensorStats."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import onnx_ir as ir

from calib.schemes import QuantParams
from calib.stats import Accumulator, TensorStats
from export.matmuls import weight_initializer
from export.other_operators import COUNTED
from export.reference import open_reference
from trueint8.errors import CalibrationError
from trueint8.progress import Advance, Progress

Batch = Mapping[str, np.ndarray]

KEEP_EVERY_S = 20.0


@dataclass(frozen=True, slots=True)
class Observation:
    """Statistics by tensor name, and every matmul operand's shape for one reference sequence."""

    stats: dict[str, TensorStats]
    shapes: dict[str, tuple[int, ...]]


Keep = Callable[[Mapping[str, TensorStats], int], None]


def observe(
    model: ir.Model,
    tensors: Sequence[str],
    batches: Sequence[Batch],
    *,
    progress: Progress,
    start: Mapping[str, TensorStats] | None = None,
    done: int = 0,
    keep: Keep | None = None,
    token_axes: Mapping[str, int] | None = None,
) -> Observation:
    """Run all batches once; only one batch's activations are in memory at a time.

    Padded positions (``attention_mask`` 0) do not enter the statistics.

    Args:
        model: The clean float graph.
        tensors: Activations to observe, by name.
        batches: Arrays named as the graph's inputs.
        progress: Shows one unit per batch.
        start: Statistics of the first ``done`` batches, which are left out.
        done: How many batches ``start`` holds.
        keep: Called now and then with the statistics so far and the number of batches in them.
        token_axes: The axis of tokens in tensors of attentions; others are (B, T, ...) or
            (B·T, C).

    Raises:
        CalibrationError: If an activation is NaN or infinite; names it.
    """
    collecting = {name: Accumulator((start or {}).get(name)) for name in tensors}
    kept = time.monotonic()

    def add(name: str, values: np.ndarray, mask: np.ndarray | None) -> int:
        return collecting[name].add(unpadded(values, mask, (token_axes or {}).get(name)))

    with (
        progress.step("calibrate", total=len(batches)) as advance,
        instrumented(model, tensors) as (run, shapes_of),
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads,
    ):
        shapes = shapes_of(batches[0])
        advance(done)
        for index, batch in enumerate(batches[done:], done):
            seen = run(batch)
            counts = threads.map(add, seen, seen.values(), repeat(batch.get("attention_mask")))
            for name, nonfinite in zip(seen, counts, strict=True):
                _refuse_nonfinite(name, nonfinite, index)
            del seen
            advance(1)
            if keep is not None and time.monotonic() - kept > KEEP_EVERY_S:
                keep({name: c.stats() for name, c in collecting.items()}, index + 1)
                kept = time.monotonic()
        found = threads.map(Accumulator.stats, collecting.values())
        return Observation(dict(zip(collecting, found, strict=True)), shapes)


@dataclass(frozen=True, slots=True)
class ChannelMeans:
    """Mean of an activation's channels, (C,) float64, as it is and after quantization."""

    exact: np.ndarray
    quantized: np.ndarray


def channel_means(
    model: ir.Model,
    params: Mapping[str, QuantParams],
    batches: Sequence[Batch],
    *,
    progress: Progress,
) -> dict[str, ChannelMeans]:
    """Run all batches once more and average what INT8 makes of each activation.

    Padded positions do not count.

    Args:
        model: The float graph.
        params: Symmetric parameters by activation; the last axis are channels.
        batches: Arrays named as the graph's inputs.
        progress: Shows one unit per batch.
    """
    sums: dict[str, np.ndarray] = {}
    counts = dict.fromkeys(params, 0)
    with progress.step("measure bias", total=len(batches)) as advance:
        for name, x in tokens(model, list(params), batches, advance):
            scale = params[name].scale
            rounded = np.clip(np.rint(x / scale), -128, 127) * scale
            both = np.stack([v.sum(axis=0, dtype=np.float64) for v in (x, rounded)])
            sums[name] = sums[name] + both if name in sums else both
            counts[name] += len(x)
    return {n: ChannelMeans(*(both / counts[n])) for n, both in sums.items()}


def tokens(
    model: ir.Model, tensors: Sequence[str], batches: Sequence[Batch], advance: Advance
) -> Iterator[tuple[str, np.ndarray]]:
    """Run all batches and yield each activation's name and its tokens, (N, C), without padding.

    Args:
        model: The float graph.
        tensors: Activations whose last axis are channels.
        batches: Arrays named as the graph's inputs.
        advance: Called after each batch.
    """
    with instrumented(model, tensors) as (run, _):
        for batch in batches:
            for name, values in run(batch).items():
                x = unpadded(values, batch.get("attention_mask"))
                yield name, x.reshape(-1, x.shape[-1])
            advance(1)


def operand_shapes(model: ir.Model, batch: Batch) -> dict[str, tuple[int, ...]]:
    """Return the shape of every operand of a matmul, by name, for the first sequence of a batch."""
    with instrumented(model, []) as (_, shapes):
        return shapes(batch)


def value_shapes(model: ir.Model, names: Sequence[str], batch: Batch) -> dict[str, tuple[int, ...]]:
    """Return the shapes of values of a graph, constants among them, when a whole batch is run."""
    observed = model.clone()
    values = dict(observed.graph.initializers)
    values |= {str(v.name): v for v in observed.graph.inputs}
    values |= {str(v.name): v for node in observed.graph for v in node.outputs}
    observed.graph.outputs.clear()
    shapes = _add_shapes(observed.graph, {name: values[name] for name in names})
    with open_reference(observed) as run:
        found = run(batch, list(shapes.values()))
    return {name: tuple(found[output].tolist()) for name, output in shapes.items()}


Shapes = Callable[[Batch], dict[str, tuple[int, ...]]]


@contextlib.contextmanager
def instrumented(
    model: ir.Model, tensors: Sequence[str]
) -> Iterator[tuple[Callable[[Batch], dict[str, np.ndarray]], Shapes]]:
    """Open the graph with activations as its outputs.

    Yields:
        A function that returns ``tensors`` by name; and one that returns the shape of every
        operand of a matmul, by name, for the first sequence of a batch.
    """
    observed, shapes = _with_outputs(model, tensors)
    fixed = any(isinstance(v.shape[0], int) for v in model.graph.inputs if v.shape)
    with open_reference(observed) as run:

        def shapes_of(batch: Batch) -> dict[str, tuple[int, ...]]:
            if not shapes:
                return {}
            one = batch if fixed else {k: v[:1] for k, v in batch.items()}
            found = run(one, list(shapes.values()))
            return {name: tuple(found[output].tolist()) for name, output in shapes.items()}

        yield lambda batch: run(batch, tensors), shapes_of


def _with_outputs(model: ir.Model, tensors: Sequence[str]) -> tuple[ir.Model, dict[str, str]]:
    """Return a copy with only activations and shapes of operands as outputs.

    With it come the outputs that hold a shape, by operand.
    """
    observed = model.clone()
    graph = observed.graph
    values = {str(v.name): v for node in graph for v in node.outputs}
    values |= {str(v.name): v for v in graph.inputs}
    graph.outputs.clear()
    for name in tensors:
        values[name].type = values[name].type or ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.append(values[name])
    return observed, _add_shapes(graph, {name: values[name] for name in _operands(graph)})


def _add_shapes(graph: ir.Graph, values: Mapping[str, ir.Value]) -> dict[str, str]:
    """Make the shapes of values outputs of a graph, and return their names."""
    suffix, shapes = "_shape", {}
    taken = {str(v.name) for node in graph for v in node.outputs}
    taken |= {str(v.name) for v in graph.inputs} | set(graph.initializers)
    while any(name.endswith(suffix) for name in taken):
        suffix += "_"
    for name, value in values.items():
        node = ir.node("Shape", [value])
        shape = node.outputs[0]
        shape.name = shapes[name] = f"{name}{suffix}"
        shape.type = ir.TensorType(ir.DataType.INT64)
        graph.append(node)
        graph.outputs.append(shape)
    return shapes


def _operands(graph: ir.Graph) -> list[str]:
    """Return the activations that matmuls and other counted operators take and give."""
    found = {
        str(v.name)
        for node in graph
        if node.op_type in ("MatMul", *COUNTED)
        for v in (*node.inputs, *(node.outputs if node.op_type in COUNTED else ()))
        if v is not None and weight_initializer(v) is None
    }
    return sorted(found)


def unpadded(values: np.ndarray, mask: np.ndarray | None, axis: int | None = None) -> np.ndarray:
    """Drop padded positions of (B, T, ...) and of (B·T, C); leave any other shape whole.

    With ``axis`` the tokens lie there and go to the second axis; the first is B or B·H.
    """
    if axis is not None:
        values = np.moveaxis(values, axis, 1)
        heads, rest = divmod(len(values), len(mask)) if mask is not None else (1, 0)
        mask = mask if mask is None or rest else np.repeat(mask, heads, axis=0)
    if mask is None or mask.all():
        return values
    kept = values
    if values.ndim >= 3 and values.shape[:2] == mask.shape:
        kept = values[mask.astype(bool)]
    elif values.ndim == 2 and values.shape[0] == mask.size:
        kept = values[mask.astype(bool).reshape(-1)]
    return kept


def _refuse_nonfinite(name: str, nonfinite: int, batch: int) -> None:
    if nonfinite:
        raise CalibrationError(
            f"activation {name!r} holds {nonfinite} NaN or infinite values in calibration "
            f"batch {batch}",
            fix="check the model on this data in float first; a range cannot be taken from NaN",
        )
