"""One pass of the float graph over the calibration data, streaming into TensorStats."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calib.stats import Accumulator, TensorStats
from export.matmuls import weight_initializer
from export.onnx_file import load_clean, save_model
from export.other_operators import COUNTED
from export.reference import open_reference
from trueint8.errors import CalibrationError
from trueint8.progress import Progress

Batch = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Observation:
    """Statistics by tensor name, and every matmul operand's shape for one reference sequence."""

    stats: dict[str, TensorStats]
    shapes: dict[str, tuple[int, ...]]


def observe(
    model_path: Path,
    tensors: Sequence[str],
    batches: Sequence[Batch],
    *,
    scratch: Path,
    progress: Progress,
) -> Observation:
    """Run all batches once; only one batch's activations are in memory at a time.

    Padded positions (``attention_mask`` 0) do not enter the statistics.

    Args:
        model_path: The clean float graph.
        tensors: Activations to observe, by name.
        batches: Arrays named as the graph's inputs.
        scratch: A folder for the instrumented graph, which is removed again.
        progress: Shows one unit per batch.

    Raises:
        CalibrationError: If an activation is NaN or infinite; names it.
    """
    collecting = {name: Accumulator() for name in tensors}

    def add(name: str, values: np.ndarray, mask: np.ndarray | None) -> int:
        return collecting[name].add(_unpadded(values, mask))

    with progress.step("calibrate", total=len(batches)) as advance:
        instrumented = _with_outputs(model_path, tensors, scratch / "observed.onnx")
        with (
            open_reference(instrumented, tensors) as run,
            ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads,
        ):
            for index, batch in enumerate(batches):
                mask = batch.get("attention_mask")
                seen = run(batch)
                counts = threads.map(add, seen, seen.values(), repeat(mask))
                for name, nonfinite in zip(seen, counts, strict=True):
                    _refuse_nonfinite(name, nonfinite, index)
                advance(1)
        _remove(instrumented)
        shapes = _operand_shapes(model_path, batches[0], scratch)
    return Observation({name: c.stats() for name, c in collecting.items()}, shapes)


def _operand_shapes(model_path: Path, batch: Batch, scratch: Path) -> dict[str, tuple[int, ...]]:
    graph = load_clean(model_path).graph
    operands = {
        str(v.name)
        for node in graph
        if node.op_type in ("MatMul", *COUNTED)
        for v in (*node.inputs, *(node.outputs if node.op_type in COUNTED else ()))
        if v is not None and weight_initializer(v) is None
    }
    fixed = any(isinstance(v.shape[0], int) for v in graph.inputs if v.shape)
    one = batch if fixed else {k: v[:1] for k, v in batch.items()}
    names = sorted(operands)
    instrumented = _with_outputs(model_path, names, scratch / "shapes.onnx")
    with open_reference(instrumented, names) as run:
        shapes = {k: v.shape for k, v in run(one).items()}
    _remove(instrumented)
    return shapes


def _with_outputs(model_path: Path, tensors: Sequence[str], out: Path) -> Path:
    model = load_clean(model_path)
    values = {str(v.name): v for node in model.graph for v in node.outputs}
    values |= {str(v.name): v for v in model.graph.inputs}
    model.graph.outputs.clear()
    for name in tensors:
        value = values[name]
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.append(value)
    save_model(model, out)
    return out


def _remove(path: Path) -> None:
    path.unlink()
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)


def _unpadded(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Drop padded positions of (B, T, ...) and of (B·T, C); leave any other shape whole."""
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
