"""All that is joined to a tensor's channels, so that one order can be given to all of it.

The last axis of an activation is tied to the same axis of what is added to it or multiplied with
it, to a LayerNorm's gains, to the columns of the matmul or of the embedding table that makes it
and to the rows of the matmul that reads it; those tie in others. In a transformer the hidden layer
of an FFN is one such space, and the residual stream with every norm on it is another. A tensor
that several nodes share, a tied embedding for one, joins their spaces.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from export.initializers import array_of, is_constant
from export.matmuls import weight_initializer

LAST = -1
"""The last axis of an activation; axes of initializers are counted from 0."""

_ELEMENTWISE = {
    "Abs", "Add", "Cast", "Clip", "Div", "Elu", "Equal", "Erf", "Exp", "Gelu", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Mean", "Min", "Mish", "Mul", "Neg", "Pow",
    "Reciprocal", "Relu", "Sigmoid", "Sign", "Softplus", "Sqrt", "Sub", "Sum", "Tanh", "Where",
}  # fmt: skip
_NORMS = {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}
_MOVES_ROWS = {"Expand", "Reshape", "Squeeze", "Unsqueeze"}
_REDUCES = {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "ReduceL2"}

Axis = tuple[ir.Value, int]
Use = tuple[ir.Node, int]


@dataclass(frozen=True, slots=True)
class ChannelSpace:
    """Axes that must be in the same order.

    Attributes:
        width: C, the length of each.
        activations: Values whose last axis belongs to it.
        constants: Initializers and their axes that belong to it.
        uses: Inputs of nodes, as (node, place), that take such an axis as the rewrite leaves it.
        sources: Those activations that come in the order they had: whatever makes them ties in
            nothing, or is no node.
    """

    width: int
    activations: list[ir.Value]
    constants: list[Axis]
    uses: set[Use]
    sources: set[ir.Value]


def channel_space(graph: ir.Graph, value: ir.Value) -> ChannelSpace:
    """Return the space of an activation's channels.

    Args:
        graph: The main graph, with the shapes of its values inferred.
        value: Of it; the length of its last axis is known.
    """
    width = last_length(value)
    assert width is not None
    space = ChannelSpace(width, [], [], set(), set())
    known: set[Axis] = set()
    waiting: list[Axis] = [(value, LAST)]
    while waiting:
        axis = waiting.pop()
        if axis in known:
            continue
        known.add(axis)
        current = axis[0]
        for node, place in current.uses():
            tied = _tied(node, place, axis, width) if node.graph is graph else None
            if tied is not None:
                space.uses.add((node, place))
                waiting += tied
        if axis[1] != LAST:
            space.constants.append(axis)
            continue
        space.activations.append(current)
        producer = current.producer()
        tied = _tied_to_output(producer, current, width) if producer is not None else None
        if tied is None:
            space.sources.add(current)
        else:
            waiting += tied
    return space


def last_length(value: ir.Value) -> int | None:
    """Return the length of the last axis, 1 for a scalar; None where it is not known."""
    if value.shape is None:
        return None
    length = value.shape[-1] if len(value.shape) else 1
    return length if isinstance(length, int) else None


def _last(value: ir.Value) -> Axis:
    return (value, len(value.shape or ()) - 1 if value.is_initializer() else LAST)


def _tied(node: ir.Node, place: int, axis: Axis, width: int) -> list[Axis] | None:
    """Return the axes tied to one that a node reads; None where the node needs the old order."""
    if node.op_type == "MatMul":
        return _tied_to_operand(node, place, axis)
    if node.op_type == "Transpose" and axis[1] != LAST:
        return _tied_through_transpose(node, axis)
    if axis != _last(axis[0]):
        return None
    if node.op_type in _REDUCES and place == 0:
        return _tied_by_reduction(node)
    return _tied_by_node(node, place, width)


def _tied_to_output(node: ir.Node, value: ir.Value, width: int) -> list[Axis] | None:
    """Return the axes tied to the last of a node's output; None where the node fixes the order."""
    if value is not node.outputs[0]:
        return None
    if node.op_type == "MatMul":
        weight = _weight(node)
        return [(weight[0], weight[1][1])] if weight is not None else None
    if node.op_type in _REDUCES:
        tied = _tied_by_reduction(node)
        return tied if tied else None
    return _tied_by_node(node, 0, width)


def _tied_by_node(node: ir.Node, place: int, width: int) -> list[Axis] | None:
    """Return all last axes that a node joins, its own output's too."""
    source, result = node.inputs[0], node.outputs[0]
    if node.op_type in _ELEMENTWISE or (node.op_type == "Concat" and not _along_last(node, result)):
        return _of_width([*node.inputs, result], width, ones=node.op_type != "Concat")
    if node.op_type in _NORMS and _along_last(node, result, default=-1):
        return _of_width([*node.inputs, result], width)
    moves = node.op_type in _MOVES_ROWS
    moves |= node.op_type == "Gather" and source is not None and not _along_last(node, source)
    moves |= node.op_type == "Transpose" and _keeps_last(node)
    return _of_width([source, result], width, ones=False) if moves and place == 0 else None


def _of_width(values: list[ir.Value | None], width: int, *, ones: bool = True) -> list[Axis] | None:
    """Return the last axes of length ``width``; None if one is neither that nor a broadcast 1."""
    found = []
    for value in values:
        length = last_length(value) if value is not None else 1
        if value is not None and length == width:
            found.append(_last(value))
        elif length != 1 or not ones:
            return None
    return found


def _weight(node: ir.Node) -> tuple[ir.Value, tuple[int, int]] | None:
    """Return the (C, N) weight on a matmul's right: its initializer, and C's and N's axes there."""
    operand = node.inputs[1]
    weight = weight_initializer(operand) if operand is not None else None
    if weight is None or not is_constant(weight) or len(weight.shape or ()) != 2:
        return None
    return weight, (0, 1) if weight is operand else (1, 0)


def _tied_to_operand(node: ir.Node, place: int, axis: Axis) -> list[Axis] | None:
    weight = _weight(node)
    source = node.inputs[0]
    if weight is None or source is None or source.is_initializer():
        return None
    value, (rows, columns) = weight
    if place == 0:
        return [(value, rows)]
    return [(source, LAST) if axis[1] == rows else (node.outputs[0], LAST)]


def _tied_through_transpose(node: ir.Node, axis: Axis) -> list[Axis] | None:
    """Return what the transpose of a weight is tied to: what its matmuls read, or give."""
    found: list[Axis] = []
    for user, place in node.outputs[0].uses():
        tied = _tied_to_operand(user, place, axis) if user.op_type == "MatMul" else None
        if tied is None or place != 1:
            return None
        found += tied
    return found


def _tied_by_reduction(node: ir.Node) -> list[Axis] | None:
    """Return nothing where channels are summed up, and both ends where only other axes are."""
    source, result = node.inputs[0], node.outputs[0]
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if source is None or source.shape is None or not is_constant(given):
        return None
    rank = len(source.shape)
    if rank - 1 in {int(a) % rank for a in array_of(given).reshape(-1)}:
        return []
    return [(source, LAST), (result, LAST)]


def _along_last(node: ir.Node, value: ir.Value, default: int = 0) -> bool:
    """Return whether a node works along a value's last axis; so it does where that is unknown."""
    attribute = node.attributes.get("axis")
    axis = attribute.as_int() if attribute is not None else default
    return value.shape is None or axis % len(value.shape) == len(value.shape) - 1


def _keeps_last(node: ir.Node) -> bool:
    order = node.attributes.get("perm")
    axes = list(order.as_ints()) if order is not None else []
    return bool(axes) and axes[-1] == len(axes) - 1
