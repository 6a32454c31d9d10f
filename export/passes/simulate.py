"""Q/DQ in float arithmetic, so that no engine can fuse it into integer kernels.

    Q(x; s)  = clip(round_half_even(x / s), −128, 127)     (kept as float)
    DQ(q; s) = q · s
    DQ(W_int8; s) = the float initializer W_int8 · s

The values are those of the Q/DQ graph; every matmul multiplies floats.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.initializers import add_initializer, remove_unused_initializers


class Simulate(ir.passes.InPlacePass):
    """Replace every Q, DQ and quantized initializer by float operations of equal value."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph."""
        graph = model.graph
        nodes = [n for n in graph if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
        if nodes:
            low = add_initializer(graph, "int8_low", np.array(-128, np.float32))
            high = add_initializer(graph, "int8_high", np.array(127, np.float32))
        for node in nodes:
            x, scale = node.inputs[0], node.inputs[1]
            assert x is not None and scale is not None
            if x.is_initializer():
                _replace(graph, node, [], _float_weight(graph, node))
            elif node.op_type == "QuantizeLinear":
                steps = ir.node("Div", [x, scale])
                rounded = ir.node("Round", [steps.outputs[0]])
                clipped = ir.node("Clip", [rounded.outputs[0], low, high])
                _replace(graph, node, [steps, rounded, clipped], clipped.outputs[0])
            else:
                product = ir.node("Mul", [x, scale])
                _replace(graph, node, [product], product.outputs[0])
        remove_unused_initializers(graph)
        return ir.passes.PassResult(model, modified=bool(nodes))


def _float_weight(graph: ir.Graph, node: ir.Node) -> ir.Value:
    weight, scale = (v.const_value.numpy() for v in node.inputs[:2])  # type: ignore[union-attr]
    shape = [1] * weight.ndim
    if scale.ndim:
        shape[node.attributes["axis"].as_int()] = -1
    return add_initializer(
        graph, f"{node.outputs[0].name}_float", weight.astype(np.float32) * scale.reshape(shape)
    )


def _replace(graph: ir.Graph, node: ir.Node, new: list[ir.Node], result: ir.Value) -> None:
    graph.insert_before(node, new)
    node.outputs[0].replace_all_uses_with(result)
    graph.remove(node, safe=True)
