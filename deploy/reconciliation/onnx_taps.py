"""More outputs for the optimized graph that ONNX Runtime executes.

The graph is loaded as it is, without another optimization, so nothing about it changes but that it
returns more. Where a bias is fused into what follows, a layer's result is the product without it.
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
    kernels = kernels_of(path, matmuls, {})
    for node, kernel in zip(nodes, kernels, strict=True):
        for name in (n for n in kernel.matmuls if n in known):
            layer, raw = known[name], node.output[0]
            if raw == layer.values[0] and layer.result in made:
                raw = layer.result
            value = layer.tap([raw.removesuffix(_BEFORE_Q)])
            if not value:
                continue
            found[name] = value
            if value not in outputs:
                _add(model.graph, node, raw, output_name(value, outputs))
    onnx.save(model, str(path))
    return found


def _add(graph: onnx.GraphProto, node: onnx.NodeProto, raw: str, output: str) -> None:
    if node.op_type in _SCALES and len(node.input) > _SCALES[node.op_type] + 1:
        start = _SCALES[node.op_type]
        made = helper.make_node("DequantizeLinear", [raw, *node.input[start : start + 2]], [output])
    else:
        made = helper.make_node("Identity", [raw], [output])
    graph.node.append(made)
    graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
