"""Activations, each with the matmuls that read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from export.initializers import array_of, is_constant
from export.matmuls import MatMul


@dataclass(frozen=True, slots=True)
class Readers:
    """An activation and the matmuls with (C, N) weights that read it."""

    value: ir.Value
    nodes: list[ir.Node]


def find_readers(graph: ir.Graph, matmuls: Sequence[MatMul]) -> list[Readers]:
    """Return what reads which activation on its left, of some matmuls of a graph.

    Matmuls whose weight is on the left, is a transpose, or has other than two axes, are left out.
    """
    chosen = {m.name for m in matmuls}
    found: dict[str, Readers] = {}
    for node in graph:
        if node.name not in chosen or node.op_type != "MatMul":
            continue
        value, weight = node.inputs
        assert value is not None
        if not is_constant(weight) or array_of(weight).ndim != 2:
            continue
        found.setdefault(str(value.name), Readers(value, [])).nodes.append(node)
    return list(found.values())
