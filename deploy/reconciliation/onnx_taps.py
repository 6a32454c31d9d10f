"""More outputs for the optimized graph that ONNX Runtime executes.

The graph is loaded as it is, without another optimization, so nothing about it changes but that it
returns more. Where a bias is fused into what follows, the tap adds it once more, from the graph's
own constant: the product alone is no measure, as calibration may have moved a part of it there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import onnx
from onnx import helper

from deploy.optimized_graph import kernels_of
from deploy.reconciliation.layers import Layer
from deploy.reconciliation.tap_names import output_name

_SCALES = {"QLinearMatMul": 6, "QLinearConv": 6, "QGemm": 7}
"""Where scale and zero point of a quantized result stand among a node's inputs."""
_BEFORE_Q = "_pre_q"
"""Behind the name of a value where a Q moved to right behind its maker."""


def tap_onnx(path: Path, layers: Collection[Layer], matmuls: Mapping[str, str]) -> dict[str, str]:
    """Add what each layer gives to the outputs of an optimized graph, in place.

    Args:
        path: The graph; weights beside it stay there.
        layers: What to look for.
        matmuls: As of :meth:`Engine.audit`.

    Returns:
        The value by layer; layers that no node of their own computes are not in it.
    """
    known = {layer.name: layer for layer in layers}
    model = onnx.load(str(path), load_external_data=False)
    outputs = {o.name for o in model.graph.output}
    found: dict[str, str] = {}
    nodes = list(model.graph.node)
    made = {name for node in nodes for name in node.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    kernels = kernels_of(path, matmuls, {})
    for node, kernel in zip(nodes, kernels, strict=True):
        for name in (n for n in kernel.matmuls if n in known):
            layer, raw = known[name], node.output[0]
            value = layer.tap([raw.removesuffix(_BEFORE_Q)])
            if not value:
                continue
            if value == layer.values[0] and layer.bias in constants:
                value = layer.result
            found[name] = value
            if value not in outputs:
                maker = _tap(node, value if value in made else raw, layer, value)
                maker.output.append(output_name(value, outputs))
                model.graph.node.append(maker)
                told = helper.make_tensor_value_info(maker.output[0], onnx.TensorProto.FLOAT, None)
                model.graph.output.append(told)
    onnx.save(model, str(path))
    return found


def _tap(node: onnx.NodeProto, given: str, layer: Layer, value: str) -> onnx.NodeProto:
    """Return a node that makes the layer's value of what the graph holds of it."""
    start = _SCALES.get(node.op_type)
    if start is not None and len(node.input) > start + 1:
        return helper.make_node("DequantizeLinear", [given, *node.input[start : start + 2]], [])
    if value == layer.result != given == layer.values[0]:
        return helper.make_node("Add", [given, layer.bias], [])
    return helper.make_node("Identity", [given], [])
