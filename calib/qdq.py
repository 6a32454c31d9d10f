"""Write quantization parameters into the graph as QuantizeLinear and DequantizeLinear.

    Y = X·W   becomes   Y = DQ(Q(X; s_x); s_x) · DQ(W_int8; s_w[channel])

Activations are per-tensor, weights per output channel or per tensor and stored as INT8
initializers; zero points are 0. Biases stay float and outputs carry no Q/DQ,
which is the form TensorRT, OpenVINO and ONNX Runtime all execute in INT8.
A weight that several matmuls share is quantized once.

    O = P·V   becomes   O = DQ(Q(DQ(Q(P; 1/127))·DQ(Q(V; s_v)); s_o)), and S = Q·Kᵀ likewise

In an attention every operand carries Q/DQ; its output does only where no quantized
matmul reads it as it is, because otherwise that matmul's Q/DQ serves both.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from calib.placement import Placement
from calib.rounding import Rounded
from calib.schemes import QuantParams
from calib.weights import WeightScheme, quantize_weight
from export.initializers import add_initializer, fresh_name, remove_unused_initializers
from export.matmuls import MatMul, weight_array

PROBABILITIES = QuantParams(np.asarray(1 / 127, np.float32))
"""Of attention weights, which lie in [0, 1]."""


def insert_qdq(
    model: ir.Model,
    placement: Placement,
    params: Mapping[str, QuantParams],
    weights: WeightScheme | None = None,
    rounded: Rounded | None = None,
) -> None:
    """Insert Q/DQ around every placed matmul and attention, in place.

    Args:
        model: A clean graph; changed.
        placement: Decisions for its matmuls.
        params: Per-tensor parameters for each of ``placement.tensors``.
        weights: How weights are quantized; min-max per channel unless given.
        rounded: Weights that are quantized already.
    """
    graph = model.graph
    nodes = {node.name: node for node in graph}
    dequantized: dict[str, ir.Value] = {}
    stored: dict[str, ir.Value] = {}

    def quantized(source: ir.Value | None, how: QuantParams) -> ir.Value:
        """Return the value behind the one Q/DQ pair of ``source``."""
        assert source is not None
        name = str(source.name)
        if name not in dequantized:
            dequantized[name] = _insert_pair(graph, source, how)
        return dequantized[name]

    for matmul in placement.quantized:
        node = nodes[matmul.name]
        side = 1 - matmul.weight_side
        node.replace_input_with(side, quantized(node.inputs[side], params[matmul.activation]))
        operand = node.inputs[matmul.weight_side]
        assert operand is not None
        if operand.name not in stored:
            dequantizer = _weight_dequantizer(matmul, operand, graph, weights, rounded or {})
            graph.insert_before(node, [dequantizer])
            stored[str(operand.name)] = dequantizer.outputs[0]
        node.replace_input_with(matmul.weight_side, stored[str(operand.name)])
    known = {**params, **{a.probabilities: PROBABILITIES for a in placement.attentions}}
    for attention in placement.attentions:
        for node in (nodes[name] for name in attention.matmuls):
            for side, source in enumerate(node.inputs):
                assert source is not None
                node.replace_input_with(side, quantized(source, known[str(source.name)]))
    for name in placement.outputs:
        output = next(v for n in nodes.values() for v in n.outputs if v.name == name)
        readers = list(output.uses())
        result = quantized(output, params[name])
        for user, side in readers:
            user.replace_input_with(side, result)
    common.RemoveUnusedNodesPass()(model)
    remove_unused_initializers(graph)


def _insert_pair(graph: ir.Graph, source: ir.Value, params: QuantParams) -> ir.Value:
    """Put Q and DQ right behind whatever gives ``source``, and return what DQ gives."""
    pair = _activation_pair(graph, str(source.name), source, params)
    producer = source.producer()
    if producer is None:
        graph.insert_before(graph[0], pair)
    else:
        graph.insert_after(producer, pair)
    return pair[1].outputs[0]


def _activation_pair(
    graph: ir.Graph, name: str, source: ir.Value, params: QuantParams
) -> list[ir.Node]:
    scale = add_initializer(graph, fresh_name(graph, f"{name}_scale"), params.scale)
    zero = add_initializer(graph, fresh_name(graph, f"{name}_zero_point"), np.zeros((), np.int8))
    quantize = ir.node("QuantizeLinear", [source, scale, zero], name=f"{name}/QuantizeLinear")
    quantize.outputs[0].name = fresh_name(graph, f"{name}_int8")
    dequantize = ir.node(
        "DequantizeLinear", [quantize.outputs[0], scale, zero], name=f"{name}/DequantizeLinear"
    )
    dequantize.outputs[0].name = fresh_name(graph, f"{name}_dequantized")
    return [quantize, dequantize]


def _weight_dequantizer(
    matmul: MatMul,
    operand: ir.Value,
    graph: ir.Graph,
    how: WeightScheme | None,
    rounded: Rounded,
) -> ir.Node:
    weight = weight_array(operand)
    axis = weight.ndim - 1 if matmul.weight_side == 1 else weight.ndim - 2
    stem = f"{matmul.name}.weight"
    known = rounded.get(str(operand.name))
    integers, params = known or quantize_weight(weight, axis, how, name=stem)
    dequantize = ir.node(
        "DequantizeLinear",
        [
            add_initializer(graph, f"{stem}_int8", integers),
            add_initializer(graph, f"{stem}_scale", params.scale),
            add_initializer(graph, f"{stem}_zero_point", np.zeros(params.scale.shape, np.int8)),
        ],
        attributes={"axis": axis} if params.scale.ndim else {},
        name=f"{stem}/DequantizeLinear",
    )
    dequantize.outputs[0].name = f"{stem}_dequantized"
    return dequantize
