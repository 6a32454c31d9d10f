"""y = f(x) becomes y = float32(T(f(x))), for every float that no Q/DQ has rounded yet.

T is BF16 or FP16. What is between Q and DQ, and what DQ gives, stays: integers times one scale. The
arithmetic stays FP32, so that every runtime computes the same; an engine that keeps values wider
inside its fused kernels rounds less often than this.
"""

from __future__ import annotations

import onnx_ir as ir

TYPES = {"bf16": ir.DataType.BFLOAT16, "fp16": ir.DataType.FLOAT16}
_QUANTIZED = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
}


class RoundRest(ir.passes.InPlacePass):
    """Round floats outside Q/DQ as an engine does whose rest runs in a shorter type.

    Args:
        precision: ``bf16`` or ``fp16``.
    """

    def __init__(self, precision: str) -> None:
        super().__init__()
        self._type = TYPES[precision]

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph; its outputs keep FP32."""
        graph = model.graph
        values = [
            value
            for node in graph
            if node.op_type not in _QUANTIZED
            for value in node.outputs
            if value.dtype == ir.DataType.FLOAT and not value.is_graph_output()
        ]
        for value in values:
            self._round(graph, value)
        return ir.passes.PassResult(model, modified=bool(values))

    def _round(self, graph: ir.Graph, value: ir.Value) -> None:
        maker = value.producer()
        assert maker is not None
        uses = list(value.uses())
        short = ir.node("Cast", [value], attributes={"to": self._type})
        back = ir.node("Cast", [short.outputs[0]], attributes={"to": ir.DataType.FLOAT})
        graph.insert_after(maker, [short, back])
        for user, index in uses:
            user.replace_input_with(index, back.outputs[0])
