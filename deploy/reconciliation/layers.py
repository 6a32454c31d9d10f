"""The matmuls of a Q/DQ graph, and the values in it that tell what each of them gives.

Engines keep the names of values but fuse what makes them: a kernel gives the product, the product
with its bias, or what a scale or Q/DQ behind it makes of it. All of these are one layer's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from export.initializers import is_constant

_MULTIPLY = ("MatMul", "Conv", "Gemm")
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_QUANTIZED = "QuantizeLinear"


@dataclass(frozen=True, slots=True)
class Layer:
    """One matmul or convolution.

    Attributes:
        name: Of its node, as in the manifest.
        values: Its product, and what operators without another activation make of it, in order.
        result: That of ``values`` with the bias, or the product where there is none.
        bias: What is added to the product, by the initializer's name, or "".
        floats: By value, the one the float graph has in its place.
        dequantized: By value between Q and DQ, the one behind DQ.
    """

    name: str
    values: tuple[str, ...]
    result: str
    bias: str
    floats: dict[str, str]
    dequantized: dict[str, str]

    def tap(self, given: Iterable[str]) -> str:
        """Return the first of an engine's values that is this layer's and a float, or ""."""
        known = set(self.values)
        names = (name for name in given if name in known)
        return next((self.dequantized.get(name, name) for name in names), "")


def layers_of(graph: ir.Model, names: Collection[str]) -> list[Layer]:
    """Return the layers of a Q/DQ graph in its order.

    Args:
        graph: Not yet simulated.
        names: Of the float graph's matmuls; others in the graph are parts of them.
    """
    wanted = set(names)
    nodes = [n for n in graph.graph if n.op_type in _MULTIPLY and n.name in wanted]
    return [_layer(node) for node in nodes]


def _layer(node: ir.Node) -> Layer:
    chain = [node]
    while (following := _follower(chain[-1])) is not None:
        chain.append(following)
    floats: dict[str, str] = {}
    dequantized: dict[str, str] = {}
    floating = quantized = ""
    for part in chain:
        name = str(part.outputs[0].name)
        floating = floating if part.op_type in _QDQ else name
        floats[name] = floating
        if part.op_type == _QUANTIZED:
            quantized = name
        elif quantized:
            dequantized[quantized], quantized = name, ""
    biased = len(chain) > 1 and chain[1].op_type == "Add"
    result = str(chain[biased].outputs[0].name)
    bias = next(str(v.name) for v in chain[1].inputs if v and is_constant(v)) if biased else ""
    return Layer(str(node.name), tuple(floats), result, bias, floats, dequantized)


def _follower(node: ir.Node) -> ir.Node | None:
    """Return the only reader of a node's value, if it reads no other activation."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    reader, index = uses[0]
    others = [v for i, v in enumerate(reader.inputs) if i != index and v is not None]
    return reader if len(reader.outputs) == 1 and all(map(is_constant, others)) else None
