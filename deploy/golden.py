"""Golden inputs with the float model's outputs, for anyone who later checks an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from safetensors.numpy import load_file, save

from calib.inputs import GraphInput
from export.matmuls import vocabulary_size
from export.parity import compare_outputs
from export.reference import open_reference
from trueint8.artifacts import storage_errors
from trueint8.errors import CalibrationError

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]

COUNT = 4
"""Golden sequences in a bundle."""


def draw_inputs(
    graph: ir.Model, inputs: Sequence[GraphInput], like: Mapping[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """Draw inputs that hold nothing of anyone's data.

    Token ids are uniform over the vocabulary, masks are 1, segments are 0,
    positions count up, other floats are standard normal.

    Args:
        graph: The float graph, which knows the vocabulary.
        inputs: What to draw.
        like: One calibration batch, for the lengths of dynamic axes only.
        seed: Makes the draw repeatable.
    """
    draw = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for item in inputs:
        first = item.shape[0] if item.shape and item.shape[0] is not None else COUNT
        shape = (first, *like[item.name].shape[1:])
        array: np.ndarray
        if item.dtype.kind == "f":
            array = draw.standard_normal(shape)
        elif "mask" in item.name:
            array = np.ones(shape)
        elif item.name == "position_ids":
            array = np.broadcast_to(np.arange(shape[-1]), shape)
        else:
            array = draw.integers(0, vocabulary_size(graph, item.name) or 1, shape)
            array = np.zeros(shape) if item.name == "token_type_ids" else array
        arrays[item.name] = np.ascontiguousarray(array.astype(item.dtype))
    return arrays


def golden_error(run: Run, golden: Path) -> float:
    """Return the largest difference of ``run`` to the golden outputs, relative to the largest."""
    stored = load_file(golden)
    outputs = run({k.removeprefix("input."): v for k, v in stored.items() if k[0] == "i"})
    pairs = [(v, outputs[k.removeprefix("output.")]) for k, v in stored.items() if k[0] == "o"]
    return compare_outputs(pairs, [], "the float graph", tolerance=np.inf).relative_error


def write_golden(float_graph: Path, arrays: Mapping[str, np.ndarray], out: Path) -> None:
    """Run the float graph in FP32 and store inputs and outputs as ``input.*`` and ``output.*``.

    Raises:
        CalibrationError: If the float graph gives NaN or infinite values.
    """
    with open_reference(float_graph) as run:
        outputs = run(arrays)
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise CalibrationError(
                f"the float model itself gives NaN or infinite values in {name!r}",
                fix="check the checkpoint's weights; quantization comes after that",
            )
    tensors = {f"input.{k}": v for k, v in arrays.items()}
    tensors |= {f"output.{k}": np.ascontiguousarray(v) for k, v in outputs.items()}
    with storage_errors(out):
        out.write_bytes(save(tensors))
