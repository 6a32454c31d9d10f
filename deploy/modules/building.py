"""The linear layers of a Q/DQ graph into the file of an engine, and the proof that they fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from calib.smoothing import smoothed_norms
from deploy.checkpoint_files import recorded_source
from deploy.engine_graphs import simulated_outputs
from deploy.exporting import load_torch_model
from deploy.float_graph import graph_inputs
from deploy.golden import draw_inputs
from deploy.modules.layers import linear_weight, replace_layers, replace_parameters
from deploy.modules.parameters import (
    Linear,
    by_module,
    linears_of_graph,
    merged,
    read_parameters,
    write_parameters,
)
from deploy.modules.session import PARAMETERS
from deploy.sessions import BuildRequest
from export.onnx_file import load_clean
from export.torch_export import run_torch
from trueint8.errors import BuildError

_PREFIX = "model."
"""Of parameters in the graph of a checkpoint."""
_SHARE = 0.25
"""Squared error to the simulation, at most, of that between simulation and float: 6 dB."""
_SEED = 0


def write_layers(request: BuildRequest) -> None:
    """Write the INT8 layers of a Q/DQ graph, and everything else that it changed.

    Raises:
        BuildError: If a quantized matmul is no linear layer of the checkpoint, or the modules
            compute something else than the graph.
    """
    graph = load_clean(request.int8_graph)
    forward, inputs = load_torch_model(recorded_source(request.folder), None, allow_pickle=False)
    model = forward.model
    layers, tensors = _changed(graph, model)
    write_parameters(request.folder / PARAMETERS, layers, tensors)
    like = {n: np.zeros((1, *usual[1:]), np.int64) for n, (_, usual, _) in request.shapes.items()}
    batch = draw_inputs(graph, graph_inputs(graph), like, _SEED)
    floating = run_torch(forward, batch)
    layers, tensors = read_parameters(request.folder / PARAMETERS)
    replace_parameters(model, tensors)
    replace_layers(model, layers, simulated=True)
    actual = run_torch(forward, batch)
    (expected,) = simulated_outputs(request.int8_graph, batch).values()
    allowed = _SHARE * np.square(expected - floating).sum()
    if not np.square(actual - expected).sum() <= allowed:
        raise BuildError(
            "the checkpoint's modules with the INT8 layers of the Q/DQ graph compute something "
            "else than the graph",
            fix="use another engine for this model: --engine openvino or onnxruntime",
        )


def _changed(
    graph: ir.Model, model: torch.nn.Module
) -> tuple[dict[str, list[Linear]], dict[str, np.ndarray]]:
    """Return the layers to be replaced, by module, and the parameters with other values."""
    modules = dict(model.named_modules())
    linears = linears_of_graph(graph)
    layers: dict[str, list[Linear]] = {}
    for path, names in by_module(linears).items():
        parts = [linears[name] for name in names]
        weight = linear_weight(modules[path]) if path in modules else None
        if weight is None or weight.shape != _shape(parts):
            _refuse_quantized(path, names, parts, weight)
        elif any(p.quantized for p in parts) or _differs(modules[path], weight, parts):
            layers[path] = merged(parts)
    known = dict(model.named_parameters())
    tensors: dict[str, np.ndarray] = {}
    for gain, (scale, shift) in smoothed_norms(graph).items():
        name = gain.removeprefix(_PREFIX)
        bias = f"{name.removesuffix('weight')}bias"
        if name not in known or bias not in known:
            raise BuildError(
                f"the LayerNorm of {gain!r} has no gain and bias in the checkpoint to smooth",
                fix="pass --smooth none, or another --engine",
            )
        tensors |= {name: scale, bias: shift}
    return layers, tensors


def _shape(parts: list[Linear]) -> tuple[int, int]:
    return sum(len(p.weight) for p in parts), parts[0].weight.shape[1]


def _differs(module: Any, weight: np.ndarray, parts: list[Linear]) -> bool:
    """Return whether the graph has another weight or bias, as where smoothing changed them."""
    own = None if module.bias is None else module.bias.detach().numpy()
    biases = [p.bias for p in parts if p.bias is not None]
    given = np.concatenate(biases) if len(biases) == len(parts) else None
    same = not biases if own is None else given is not None and np.array_equal(given, own)
    return not (same and np.array_equal(np.concatenate([p.weight for p in parts]), weight))


def _refuse_quantized(
    path: str, names: list[str], parts: list[Linear], weight: np.ndarray | None
) -> None:
    if not any(p.quantized for p in parts):
        return
    widths = " and ".join(str(p.weight.shape) for p in parts)
    shapes = f"the layer is {weight.shape}, its matmuls are {widths}" if weight is not None else ""
    raise BuildError(
        f"torch-int8 cannot run {names[0]} in INT8: "
        f"{shapes or 'it is no linear layer of the checkpoint'}",
        fix=f"--keep-float '{path}*' leaves it in float",
    )
