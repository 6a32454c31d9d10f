"""Operators that multiply and accumulate in a graph from anywhere: operands, weights, cost."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx_ir as ir

OPERANDS = {
    "Attention": (0, 1, 2),
    "Conv": (0, 1),
    "ConvInteger": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
}
"""Which inputs each of them multiplies."""

INTEGER = frozenset(["ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"])
"""Those that take integers."""

LAYOUT = frozenset(
    ["Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"]
)
"""Operators that move values and change none."""

_PAST = 4
"""Input of Attention from which on keys of earlier calls come in."""


def products(model: ir.Model) -> list[ir.Node]:
    """Return those of the main graph whose cost is known, in order."""
    return [n for n in model.graph if n.op_type in OPERANDS and n.domain in ("", "ai.onnx")]


def operands_of(node: ir.Node) -> list[ir.Value]:
    """Return what a product multiplies."""
    values = [node.inputs[index] for index in OPERANDS[node.op_type]]
    return [value for value in values if value is not None]


def product_macs(node: ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the multiply-accumulates of one; None if they are not known.

    Args:
        node: One of :func:`products`.
        shapes: Of its operands and its result, by name.
    """
    sides = [shapes[str(v.name)] for v in operands_of(node)]
    output = prod(shapes[str(node.outputs[0].name)])
    if node.op_type == "Attention":
        return _attention_macs(node, sides)
    if "Conv" in node.op_type:
        return output * prod(sides[1][1:])
    transposed = node.attributes.get("transA")
    return output * sides[0][0 if transposed is not None and transposed.as_int() else -1]


def _attention_macs(node: ir.Node, sides: list[tuple[int, ...]]) -> int | None:
    """Return B·H·T·S·(D + Dv) of operands (B, H, T, D) or (B, T, H·D)."""
    if any(value is not None for value in node.inputs[_PAST:]):
        return None
    query, key, value = sides
    if len(query) == 4:
        return prod(query[:3]) * key[2] * (query[3] + value[3])
    heads = node.attributes["q_num_heads"].as_int()
    pairs = query[0] * query[1] * key[1]
    return pairs * (query[2] + heads * value[2] // node.attributes["kv_num_heads"].as_int())
