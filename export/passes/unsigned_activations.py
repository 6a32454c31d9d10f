"""Q(x; s, z) in int8 = Q(x; s, z + 128) in uint8 − 128: the same steps, the type that runs.

ONNX Runtime's CPU kernels multiply uint8 activations with int8 weights; with
int8 activations it leaves many matmuls in float. Every dequantized value is
equal to the bit before and after. An activation with a scale per channel stays int8: as
uint8 it would become an integer matmul that refuses to run.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.initializers import add_initializer, remove_unused_initializers


class UnsignedActivations(ir.passes.InPlacePass):
    """Add 128 to the zero point of every activation's int8 Q/DQ; unsigned ones stay as they are.

    Weights stay signed, also those that the graph quantizes from float.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph."""
        graph = model.graph
        replaced: dict[str, ir.Value] = {}
        for node in graph:
            readers = _readers_of_int8(node)
            if not readers:
                continue
            old = node.inputs[2]
            assert old is not None and old.name is not None and old.const_value is not None
            if old.name not in replaced:
                shifted = (old.const_value.numpy().astype(np.int16) + 128).astype(np.uint8)
                replaced[old.name] = add_initializer(graph, f"{old.name}_uint8", shifted)
            for user in (node, *readers):
                user.replace_input_with(2, replaced[old.name])
            node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
        remove_unused_initializers(graph)
        return ir.passes.PassResult(model, modified=bool(replaced))


def _readers_of_int8(node: ir.Node) -> list[ir.Node]:
    """Return the DequantizeLinear nodes behind an activation's int8 QuantizeLinear, else none."""
    if node.op_type != "QuantizeLinear" or len(node.inputs) < 3:
        return []
    source, zero = node.inputs[0], node.inputs[2]
    known = zero.const_value if zero is not None else None
    int8 = known is not None and known.dtype == ir.DataType.INT8 and known.size == 1
    if source is None or source.is_initializer() or not int8:
        return []
    readers = [user for user, _ in node.outputs[0].uses()]
    return readers if all(r.op_type == "DequantizeLinear" for r in readers) else []
