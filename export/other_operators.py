"""Operators besides MatMul that multiply and accumulate: counted, and never quantized here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod

import onnx_ir as ir

COUNTED = ("Conv", "Gemm")

_UNCOUNTED = frozenset(
    {
        "Attention",
        "ConvTranspose",
        "DeformConv",
        "Einsum",
        "GRU",
        "GroupQueryAttention",
        "LSTM",
        "MultiHeadAttention",
        "RNN",
    }
)


def counted_operators(model: ir.Model) -> list[ir.Node]:
    """Return the Conv and Gemm nodes of the main graph; they get names if they have none."""
    nodes = [node for node in model.graph if node.op_type in COUNTED]
    for index, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type}_{index}"
    return nodes


def uncounted_operators(model: ir.Model) -> dict[str, int]:
    """Return how many operators there are whose multiply-accumulates are not known here.

    Everything that multiplies inside the bodies of If, Loop and Scan is among them.
    """
    inner = {"MatMul", *COUNTED, *_UNCOUNTED}
    return dict(
        Counter(
            node.op_type
            for node in ir.traversal.RecursiveGraphIterator(model.graph)
            if node.op_type in (_UNCOUNTED if node.graph is model.graph else inner)
        )
    )


def operator_macs(node: ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the multiply-accumulates of a Conv or Gemm."""
    output = prod(shapes[str(node.outputs[0].name)])
    if node.op_type == "Conv":
        kernel = _shape(node.inputs[1], shapes)
        return output * prod(kernel[1:])
    a = _shape(node.inputs[0], shapes)
    transposed = node.attributes.get("transA")
    return output * a[0 if transposed is not None and transposed.as_int() else 1]


def _shape(value: ir.Value | None, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    assert value is not None
    if value.is_initializer() and value.const_value is not None:
        return tuple(value.const_value.shape.numpy())
    return shapes[str(value.name)]
