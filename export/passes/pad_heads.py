"""Q·Kᵀ = [Q 0]·[K 0]ᵀ: queries and keys as wide as the values, for engines that fuse only those.

Differential attention pairs two heads of width D over one value of width 2D. TensorRT
fuses an attention whose three operands are equally wide; the zeros make it so, and the
scores are the same numbers. Where an operand carries Q/DQ the zeros come before Q.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from export.attentions import find_attentions
from export.initializers import add_initializer, fresh_name


class PadHeads(ir.passes.InPlacePass):
    """See the module's docstring.

    Args:
        shapes: Shape of each matmul's operands in the float graph, by name; Q/DQ may
            stand between.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Pad in the main graph."""
        nodes = {node.name: node for node in model.graph}
        padded: dict[ir.Value, ir.Value] = {}
        for attention in find_attentions(model):
            scores, product = nodes[attention.scores], nodes[attention.product]
            query, key, value = (_above_qdq(v) for v in (*scores.inputs, product.inputs[1]))
            missing = self.shapes[str(value.name)][-1] - self.shapes[str(query.name)][-1]
            if missing <= 0:
                continue
            for operand, axis in ((query, -1), (key, -2)):
                if operand not in padded:
                    rank = len(self.shapes[str(operand.name)])
                    padded[operand] = _pad(model.graph, operand, rank, axis, missing, scores)
        return ir.passes.PassResult(model, modified=bool(padded))


def _above_qdq(value: ir.Value | None) -> ir.Value:
    assert value is not None
    node = value.producer()
    if node is not None and node.op_type in ("DequantizeLinear", "QuantizeLinear"):
        return _above_qdq(node.inputs[0])
    return value


def _pad(
    graph: ir.Graph, operand: ir.Value, rank: int, axis: int, missing: int, scores: ir.Node
) -> ir.Value:
    """Append zeros for whatever leads from ``operand`` to ``scores``, and return the result."""
    amounts = np.zeros(2 * rank, np.int64)
    amounts[axis] = missing
    ends = add_initializer(graph, fresh_name(graph, f"{operand.name}_pads"), amounts)
    readers = [(n, i) for n, i in operand.uses() if n is scores or n.op_type == "QuantizeLinear"]
    pad = ir.node("Pad", [operand, ends])
    result = pad.outputs[0]
    result.name, result.type = fresh_name(graph, f"{operand.name}_padded"), operand.type
    maker = operand.producer()
    assert maker is not None, "Q and K are computed"
    graph.insert_after(maker, pad)
    for node, index in readers:
        node.replace_input_with(index, result)
    return result
