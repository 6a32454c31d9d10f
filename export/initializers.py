"""Constants into a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def add_initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Register ``array`` as an initializer called ``name`` and return its value.

    Raises:
        ValueError: If another initializer has that name.
    """
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    value = ir.Value(
        name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype)
    )
    graph.register_initializer(value)
    return value


def fresh_name(graph: ir.Graph, name: str) -> str:
    """Return ``name``, with underscores added until no value of the graph has it."""
    taken = {*graph.initializers, *(v.name for v in graph.inputs)}
    taken |= {v.name for node in graph for v in node.outputs}
    while name in taken:
        name += "_"
    return name


def remove_unused_initializers(graph: ir.Graph) -> None:
    """Drop every initializer that no node reads and the graph does not return."""
    unused = [n for n, v in graph.initializers.items() if not v.uses() and not v.is_graph_output()]
    for name in unused:
        del graph.initializers[name]


def is_constant(value: ir.Value | None) -> bool:
    """Return whether a node's input is an initializer with known values."""
    return value is not None and value.is_initializer() and value.const_value is not None


def array_of(value: ir.Value | None) -> np.ndarray:
    """Return an initializer's values."""
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()
