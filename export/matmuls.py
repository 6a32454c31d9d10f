"""The matmuls of a clean graph: their weights, which of them are the head, their cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

_PASSIVE = {"Add", "Identity", "Cast", "Reshape"}


@dataclass(frozen=True, slots=True)
class MatMul:
    """One MatMul node.

    ``weight`` is the initializer on side ``weight_side`` (0 or 1), or None if
    both operands are activations; ``activation`` is the other operand.
    ``macs`` counts multiply-accumulates of one sequence of the reference length.
    """

    name: str
    activation: str
    weight: str | None
    weight_side: int
    output: str
    is_head: bool
    macs: int = 0


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
        side = 1 if b.is_initializer() else 0 if a.is_initializer() else -1
        weight = (a, b)[side] if side >= 0 else None
        found.append(
            MatMul(
                name=node.name,
                activation=str((a if side == 1 else b).name),
                weight=str(weight.name) if weight is not None else None,
                weight_side=max(side, 0),
                output=str(node.outputs[0].name),
                is_head=node in heads,
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
    if value.is_initializer():
        assert value.const_value is not None
        return tuple(int(d) for d in value.const_value.shape)
    return shapes[str(value.name)]


def vocabulary_size(model: ir.Model, input_name: str) -> int | None:
    """Return the rows of the embedding table that an integer input indexes, if there is one."""
    value = next((v for v in model.graph.inputs if v.name == input_name), None)
    frontier = [value] if value is not None else []
    while frontier:
        current = frontier.pop()
        for node, index in current.uses():
            if node.op_type == "Gather" and index == 1:
                table = node.inputs[0]
                if table is not None and table.const_value is not None and len(table.const_value.shape) == 2:
                    return int(table.const_value.shape[0])
            elif node.op_type in ("Cast", "Reshape", "Identity") and index == 0:
                frontier.append(node.outputs[0])
    return None


def _head_nodes(model: ir.Model, *, modules_named: bool) -> set[ir.Node]:
    """Return the language-model head: the projection to the vocabulary and the layers under it.

    The projection is the weight matmul that leads to a graph output through
    additions only and has as many columns as the input embedding has rows.
    Where nodes carry module names, linear layers outside the model's body
    (``cls.predictions.transform``, ``lm_head.dense``) belong to the head too.
    """
    sizes = {vocabulary_size(model, str(v.name)) for v in model.graph.inputs} - {None}
    weighted = [n for n in model.graph if n.op_type == "MatMul" and _columns(n) is not None]
    projections = {n for n in weighted if _columns(n) in sizes and _reaches_output(n.outputs[0])}
    if not projections or not modules_named:
        return projections
    body = str(weighted[0].name).split(".")[0]
    return projections | {n for n in weighted if str(n.name).split(".")[0] != body}


def _columns(node: ir.Node) -> int | None:
    weight = node.inputs[1]
    if weight is None or weight.const_value is None:
        return None
    return int(weight.const_value.shape[-1])


def _reaches_output(value: ir.Value) -> bool:
    if value.is_graph_output():
        return True
    return any(
        node.op_type in _PASSIVE and _reaches_output(node.outputs[0]) for node, _ in value.uses()
    )
