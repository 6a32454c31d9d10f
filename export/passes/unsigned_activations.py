"""Q(x; s, 0) in int8 = Q(x; s, 128) in uint8 − 128: the same steps, the type ONNX Runtime runs.

ONNX Runtime's CPU kernels multiply uint8 activations with int8 weights; with
int8 activations it leaves many matmuls in float. Every dequantized value is
equal to the bit before and after.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.initializers import add_initializer, remove_unused_initializers


class UnsignedActivations(ir.passes.InPlacePass):
    """Change the zero point of every activation's Q/DQ from int8 0 to uint8 128."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph."""
        graph = model.graph
        replaced: dict[str, ir.Value] = {}
        for node in graph:
            if node.op_type == "QuantizeLinear":
                old = node.inputs[2]
                assert old is not None and old.name is not None
                if old.name not in replaced:
                    replaced[old.name] = add_initializer(
                        graph, f"{old.name}_uint8", np.full((), 128, np.uint8)
                    )
                new = replaced[old.name]
                for user, index in old.uses():
                    user.replace_input_with(index, new)
                node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
        remove_unused_initializers(graph)
        return ir.passes.PassResult(model, modified=bool(replaced))
