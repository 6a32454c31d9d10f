"""Names, types and shapes of what a file takes and gives, read from that file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from deploy.serving.model import TensorInfo
from deploy.serving.tensors import DATATYPES
from export.onnx_file import load_clean
from trueint8.errors import BuildError, MissingDependency


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives; -1 marks an axis that may vary, the batch axis included."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    @property
    def batches(self) -> bool:
        """Whether the first axis of everything may vary."""
        return all(t.shape and t.shape[0] == -1 for t in (*self.inputs, *self.outputs))


def read_signature(path: Path) -> Signature | None:
    """Read a graph, an OpenVINO IR, or a plan where there is a GPU for it.

    Args:
        path: ``model.onnx``, ``model.xml`` or ``model.plan``.

    Returns:
        None for a plan without its GPU and library: only these can open it.

    Raises:
        BuildError: If something in it has no type or shape that Triton knows.
        MissingDependency: If OpenVINO is needed and not installed.
    """
    if path.suffix == ".onnx":
        graph = load_clean(path).graph
        return Signature(_of_values(graph.inputs, path), _of_values(graph.outputs, path))
    return _of_ir(path) if path.suffix == ".xml" else _of_plan(path)


def _of_values(values: Sequence[ir.Value], path: Path) -> tuple[TensorInfo, ...]:
    found = []
    for value in values:
        if value.shape is None or value.dtype is None:
            raise BuildError(
                f"{path}: {value.name!r} has no type or shape",
                fix="export the model with the types and shapes of its inputs and outputs",
            )
        axes = (d if isinstance(d, int) else -1 for d in value.shape)
        found.append(_info(str(value.name), value.dtype.numpy(), axes))
    return tuple(found)


def _of_ir(path: Path) -> Signature:
    try:
        import openvino
    except ImportError as err:
        raise MissingDependency(
            f"{path} is read with the package openvino, which is not installed",
            fix="pip install 'trueint8[cpu]'",
        ) from err
    model = openvino.Core().read_model(str(path))
    sides = [
        tuple(
            _info(
                port.get_any_name(),
                port.get_element_type().to_dtype(),
                (d.get_length() if d.is_static else -1 for d in port.get_partial_shape()),
            )
            for port in ports
        )
        for ports in (model.inputs, model.outputs)
    ]
    return Signature(*sides)


def _of_plan(path: Path) -> Signature | None:
    from deploy.engine_options import EngineOptions
    from deploy.engines import ENGINES
    from deploy.nvidia.device import open_device
    from deploy.nvidia.library import log_lines
    from deploy.nvidia.loading import load_plan

    engine = ENGINES.load("tensorrt")
    if not engine.runs_here:
        return None
    library, device = engine.library(), open_device()
    sides: dict[Any, list[TensorInfo]] = {m: [] for m in library.TensorIOMode.__members__.values()}
    with device.current(), log_lines(library) as lines:
        options = EngineOptions(version_compatible=True)
        kept, plan = load_plan(engine, path.read_bytes(), str(path), options, device, lines)
        for index in range(plan.num_io_tensors):
            name = plan.get_tensor_name(index)
            dtype = library.nptype(plan.get_tensor_dtype(name))
            info = _info(name, dtype, plan.get_tensor_shape(name))
            sides[plan.get_tensor_mode(name)].append(info)
        del plan, kept  # in this order, on the device they are of
    modes = library.TensorIOMode
    return Signature(tuple(sides[modes.INPUT]), tuple(sides[modes.OUTPUT]))


def _info(name: str, dtype: Any, axes: Iterable[int]) -> TensorInfo:
    known = np.dtype(dtype).name
    if known not in DATATYPES:
        raise BuildError(
            f"{name!r} is of type {known}, which the protocol has no name for",
            fix="export the model with inputs and outputs in FP32 or integers",
        )
    return TensorInfo(name, DATATYPES[known], tuple(int(d) for d in axes))
