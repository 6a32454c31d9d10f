"""Operands of matmuls rounded to any number of bits, in float arithmetic (SIMULATED).

    Y = X·W   becomes   Y = (clip(round(X / s_x), −n, n)·s_x) · (W_int·s_w),   n = 2ᵇ⁻¹ − 1

Ranges of X come from the statistics of one calibration, whatever b; W is quantized as for INT8,
per output channel or per tensor. At 8 bits X may also be −n − 1, as QuantizeLinear gives it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from calib.placement import Placement
from calib.ranges import Ranges
from calib.schemes import INT8, Scheme, params_of_range
from calib.weights import WeightScheme, quantize_weight
from export.initializers import add_initializer, fresh_name, remove_unused_initializers
from export.matmuls import MatMul, weight_array


def round_operands(
    model: ir.Model,
    placement: Placement,
    *,
    ranges: Ranges | None,
    activations: Scheme | None,
    weights: WeightScheme | None,
) -> None:
    """Round the operands of every placed matmul with weights, in place.

    Args:
        model: The float graph that was calibrated; changed.
        placement: Decisions for its matmuls.
        ranges: Statistics of its activations, and their estimator.
        activations: Bits, symmetric; None leaves activations in float.
        weights: Estimator, granularity and bits; None leaves weights in float.

    Raises:
        CalibrationError: If a range is unusable.
    """
    graph = model.graph
    nodes = {node.name: node for node in graph}
    rounded: dict[str, ir.Value] = {}
    for matmul in placement.quantized:
        node = nodes[matmul.name]
        if activations is not None:
            assert ranges is not None
            if matmul.activation not in rounded:
                rounded[matmul.activation] = _rounded(graph, node, matmul, ranges, activations)
            node.replace_input_with(1 - matmul.weight_side, rounded[matmul.activation])
        if weights is not None:
            operand = node.inputs[matmul.weight_side]
            assert operand is not None
            if str(operand.name) not in rounded:
                rounded[str(operand.name)] = _weight(graph, operand, matmul, weights)
            node.replace_input_with(matmul.weight_side, rounded[str(operand.name)])
    remove_unused_initializers(graph)


def _rounded(
    graph: ir.Graph, node: ir.Node, matmul: MatMul, ranges: Ranges, scheme: Scheme
) -> ir.Value:
    name = matmul.activation
    source = node.inputs[1 - matmul.weight_side]
    assert source is not None
    params = params_of_range(
        name, ranges.estimator({name: ranges.stats[name]}, scheme)[name], scheme
    )
    low = -scheme.levels - (scheme == INT8)
    scale, least, most = (
        add_initializer(graph, fresh_name(graph, f"{name}_{what}"), np.asarray(value, np.float32))
        for what, value in (("step", params.scale), ("low", low), ("high", scheme.levels))
    )
    steps = ir.node("Div", [source, scale])
    nearest = ir.node("Round", [steps.outputs[0]])
    clipped = ir.node("Clip", [nearest.outputs[0], least, most])
    result = ir.node("Mul", [clipped.outputs[0], scale])
    new = [steps, nearest, clipped, result]
    producer = source.producer()
    if producer is None:
        graph.insert_before(graph[0], new)
    else:
        graph.insert_after(producer, new)
    return result.outputs[0]


def _weight(graph: ir.Graph, operand: ir.Value, matmul: MatMul, how: WeightScheme) -> ir.Value:
    weight = weight_array(operand)
    axis = weight.ndim - 1 if matmul.weight_side == 1 else weight.ndim - 2
    integers, params = quantize_weight(weight, axis, how, name=f"{matmul.name}.weight")
    shape = [1] * weight.ndim
    if params.scale.ndim:
        shape[axis] = -1
    name = fresh_name(graph, f"{matmul.name}.weight_rounded")
    return add_initializer(graph, name, integers.astype(np.float32) * params.scale.reshape(shape))
