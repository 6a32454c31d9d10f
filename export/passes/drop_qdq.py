"""DQ(Q(x)) = x, but for rounding: the float graph that a Q/DQ graph was made from.

Weights that are stored as integers keep their DequantizeLinear: their floats are gone.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from export.initializers import remove_unused_initializers


class DropQdq(ir.passes.InPlacePass):
    """See the module's docstring."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph; its outputs keep their names."""
        graph = model.graph
        pairs = [node for node in graph if quantizer_of(node) is not None]
        for node in pairs:
            quantizer = quantizer_of(node)
            assert quantizer is not None
            source, result = quantizer.inputs[0], node.outputs[0]
            assert source is not None
            if result.is_graph_output():
                same = ir.node("Identity", [source])
                same.outputs[0].type, same.outputs[0].shape = result.type, result.shape
                graph.insert_before(node, same)
                source = same.outputs[0]
                source.name = result.name
            result.replace_all_uses_with(source, replace_graph_outputs=True)
            graph.remove(node, safe=True)
        common.RemoveUnusedNodesPass()(model)
        remove_unused_initializers(graph)
        return ir.passes.PassResult(model, modified=bool(pairs))


def quantizer_of(node: ir.Node) -> ir.Node | None:
    """Return the QuantizeLinear before a DequantizeLinear, if that is what they are."""
    if node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    producer = node.inputs[0].producer()
    return producer if producer is not None and producer.op_type == "QuantizeLinear" else None
