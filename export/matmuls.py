"""The matmuls of a clean graph: their weights, which of them are the head, their cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

_PASSIVE = {"Add", "Identity", "Cast", "Reshape"}


@dataclass(frozen=True, slots=True)
class MatMul:
    """One MatMul node.

    ``weight`` is the initializer behind side ``weight_side`` (0 or 1), or None if
    both operands are activations; ``activation`` is the other operand.
    ``returns`` is the graph output it gives, itself or through its bias, else "".
    ``obstacle`` says why it cannot be quantized, if it cannot.
    """

    name: str
    activation: str
    weight: str | None
    weight_side: int
    is_head: bool
    returns: str
    obstacle: str = ""


def weight_initializer(operand: ir.Value) -> ir.Value | None:
    """Return the initializer a matmul's operand is, or is the transpose of; None if it is neither.

    A language-model head tied to the embedding multiplies by its transpose.
    """
    if operand.is_initializer():
        return operand
    node = operand.producer()
    if node is None or node.op_type != "Transpose":
        return None
    source = node.inputs[0]
    assert source is not None
    two_axes = source.const_value is not None and len(source.const_value.shape) == 2
    return source if source.is_initializer() and two_axes else None


def weight_array(operand: ir.Value) -> np.ndarray:
    """Return the values of a weight operand as the matmul sees them."""
    weight = weight_initializer(operand)
    assert weight is not None and weight.const_value is not None
    array = weight.const_value.numpy()
    return array if weight is operand else array.T


def find_matmuls(model: ir.Model, *, modules_named: bool) -> list[MatMul]:
    """Return every MatMul of the main graph in topological order.

    Args:
        model: A clean graph.
        modules_named: Whether nodes are called after torch modules, as in a
            graph exported from a checkpoint.
    """
    heads = _head_nodes(model, modules_named=modules_named)
    found = []
    for node in model.graph:
        if node.op_type != "MatMul":
            continue
        a, b = node.inputs
        assert a is not None and b is not None and node.name is not None
        side = next((i for i in (1, 0) if weight_initializer((a, b)[i]) is not None), -1)
        weight = weight_initializer((a, b)[side]) if side >= 0 else None
        found.append(
            MatMul(
                name=node.name,
                activation=str((a if side == 1 else b).name),
                weight=str(weight.name) if weight is not None else None,
                weight_side=max(side, 0),
                is_head=node in heads,
                returns=_returned(node),
                obstacle=_obstacle(weight),
            )
        )
    return found


def macs_from_shapes(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return multiply-accumulates per matmul name, given the shapes of both operands."""
    macs = {}
    for node in model.graph:
        if node.op_type != "MatMul":
            continue
        a, b = (_shape(v, shapes) for v in node.inputs)
        batch = a[:-2] if len(a) >= len(b) else b[:-2]
        rows = a[-2] if len(a) > 1 else 1
        columns = b[-1] if len(b) > 1 else 1
        macs[str(node.name)] = prod(batch) * rows * a[-1] * columns
    return macs


def _shape(value: ir.Value | None, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    assert value is not None
    weight = weight_initializer(value)
    if weight is None:
        return shapes[str(value.name)]
    assert weight.const_value is not None
    shape = tuple(weight.const_value.shape.numpy())
    return shape if weight is value else shape[::-1]


def vocabulary_size(model: ir.Model, input_name: str) -> int | None:
    """Return the rows of the embedding table that an integer input indexes, if there is one."""
    value = next((v for v in model.graph.inputs if v.name == input_name), None)
    frontier = [value] if value is not None else []
    while frontier:
        current = frontier.pop()
        for node, index in current.uses():
            if node.op_type == "Gather" and index == 1:
                table = node.inputs[0]
                if (
                    table is not None
                    and table.const_value is not None
                    and len(table.const_value.shape) == 2
                ):
                    return table.const_value.shape.numpy()[0]
            elif node.op_type in ("Cast", "Reshape", "Identity") and index == 0:
                frontier.append(node.outputs[0])
    return None


def _head_nodes(model: ir.Model, *, modules_named: bool) -> set[ir.Node]:
    """Return the language-model head: the projection to the vocabulary and the layers under it.

    The projection is the weight matmul that leads to a graph output through
    additions only and has as many columns as the largest input embedding has
    rows (the smaller ones are of segments and positions).
    Where nodes carry module names, linear layers outside the model's body
    (``cls.predictions.transform``, ``lm_head.dense``) belong to the head too.
    """
    tables = (vocabulary_size(model, str(v.name)) for v in model.graph.inputs)
    vocabulary = max((size for size in tables if size is not None), default=None)
    weighted = [n for n in model.graph if n.op_type == "MatMul" and _columns(n) is not None]
    projections = {
        n for n in weighted if _columns(n) == vocabulary and _reaches_output(n.outputs[0])
    }
    if not projections or not modules_named:
        return projections
    body = str(weighted[0].name).split(".")[0]
    return projections | {n for n in weighted if str(n.name).split(".")[0] != body}


def _obstacle(weight: ir.Value | None) -> str:
    if weight is None or weight.const_value is None:
        return ""
    if weight.dtype != ir.DataType.FLOAT:
        return f"its weight is {weight.dtype}, not float32"
    return "" if len(weight.const_value.shape) >= 2 else "its weight is a vector"


def _returned(node: ir.Node) -> str:
    value = node.outputs[0]
    if value.is_graph_output():
        return str(value.name)
    for user, _ in value.uses():
        if user.op_type == "Add" and user.outputs[0].is_graph_output():
            return str(user.outputs[0].name)
    return ""


def _columns(node: ir.Node) -> int | None:
    operand = node.inputs[1]
    if operand is None or weight_initializer(operand) is None:
        return None
    return _shape(operand, {})[-1]


def _reaches_output(value: ir.Value) -> bool:
    if value.is_graph_output():
        return True
    return any(
        node.op_type in _PASSIVE and _reaches_output(node.outputs[0]) for node, _ in value.uses()
    )
