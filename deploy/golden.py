"""Golden inputs with the float model's outputs, for anyone who later checks an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from safetensors.numpy import save

from calib.inputs import GraphInput
from deploy.drawn_inputs import draw_shaped
from export.matmuls import vocabulary_size
from export.reference import open_reference
from trueint8.artifacts import storage_errors
from trueint8.errors import CalibrationError

COUNT = 4
"""Golden sequences in a bundle."""


def draw_inputs(
    graph: ir.Model, inputs: Sequence[GraphInput], like: Mapping[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """Draw inputs as :func:`draw_shaped` does, as many as a bundle holds.

    Args:
        graph: The float graph, which knows the vocabulary.
        inputs: What to draw.
        like: One calibration batch, for the lengths of dynamic axes only.
        seed: Makes the draw repeatable.
    """
    shapes = {}
    for item in inputs:
        first = item.shape[0] if item.shape and item.shape[0] is not None else COUNT
        shapes[item.name] = (first, *like[item.name].shape[1:])
    rows = {i.name: vocabulary_size(graph, i.name) for i in inputs}
    return draw_shaped(inputs, shapes, rows, seed)


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
