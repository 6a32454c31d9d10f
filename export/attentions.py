"""The attentions of a clean graph: a product of activations, softmax, a second product.

    S = Q·Kᵀ,  P = f(softmax(g(S))),  O = P·V

g are scales and masks, f is the identity, a clip of the stretched softmax, or anything
else made of element-wise operators. A gate behind O is no part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from export.matmuls import weight_initializer

_ELEMENTWISE = frozenset(
    ["Add", "Cast", "Clip", "Div", "Identity", "Max", "Min", "Mul", "Reshape", "Sub", "Where"]
)
_BEFORE = _ELEMENTWISE | {"Concat", "Tanh"}
_BEHIND = _ELEMENTWISE | {"DequantizeLinear", "Neg", "QuantizeLinear", "Slice"}
_KEEP_VALUES = frozenset(
    ["Cast", "Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"]
)
_LAYOUT = frozenset(["Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"])
"""Operators that move values and change none."""

UNBOUNDED = "its attention weights are not known to lie in [0, 1]"


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention, by the names of its two MatMul nodes and of the values around them.

    ``key`` and ``value`` are the right operands as the nodes take them: (B, H, D, S) and
    (B, H, S, D). ``outputs`` are O and the values that hold its elements in another
    layout, as long as nothing else reads them. ``clipped`` tells a clip behind the
    softmax, ``shared`` that something outside reads the scores or the weights too;
    ``obstacle`` says why the attention cannot be quantized, if it cannot.
    """

    scores: str
    product: str
    query: str
    key: str
    probabilities: str
    value: str
    outputs: tuple[str, ...]
    clipped: bool
    shared: bool
    obstacle: str = ""

    @property
    def matmuls(self) -> tuple[str, str]:
        """Names of Q·Kᵀ and P·V."""
        return self.scores, self.product


def find_attentions(model: ir.Model) -> list[Attention]:
    """Return every attention of the main graph, in the order of their second products."""
    found = (_match(node) for node in model.graph if _multiplies_activations(node))
    return [attention for attention in found if attention is not None]


def static_shapes(model: ir.Model) -> bool:
    """Return whether every axis of every input has a fixed length."""
    dimensions = [d for v in model.graph.inputs if v.shape is not None for d in v.shape]
    return all(isinstance(d, int) for d in dimensions)


def core_nodes(product: ir.Node) -> list[ir.Node]:
    """Return the nodes from Q·Kᵀ to P·V, both among them, given the second; [] if it is none."""
    behind = _climb(product.inputs[0], _BEHIND, _is_softmax)
    before = _climb(behind[-1].inputs[0], _BEFORE, _multiplies_activations) if behind else []
    return [product, *behind, *before] if before else []


def _multiplies_activations(node: ir.Node) -> bool:
    return node.op_type == "MatMul" and all(
        v is not None and weight_initializer(v) is None for v in node.inputs
    )


def _is_softmax(node: ir.Node) -> bool:
    return node.op_type == "Softmax"


def _match(product: ir.Node) -> Attention | None:
    core = core_nodes(product)
    if not core:
        return None
    scores = core[-1]
    query, key, weights, values = *scores.inputs, *product.inputs
    softmax = next(i for i, node in enumerate(core) if _is_softmax(node))
    return Attention(
        scores=str(scores.name),
        product=str(product.name),
        query=_name(query),
        key=_name(key),
        probabilities=_name(weights),
        value=_name(values),
        outputs=tuple(_moved(product.outputs[0])),
        clipped=any(node.op_type == "Clip" for node in core[:softmax]),
        shared=any(
            v.is_graph_output() or any(user not in core for user, _ in v.uses())
            for node in core[1:]
            for v in node.outputs
        ),
        obstacle="" if _within_unit(weights) else UNBOUNDED,
    )


def _name(value: ir.Value | None) -> str:
    assert value is not None and value.name is not None
    return value.name


def _moved(value: ir.Value) -> list[str]:
    """Return the value's name and those of its only readers' results while they but move it."""
    users = [node for node, _ in value.uses()]
    further = len(users) == 1 and users[0].op_type in _LAYOUT and not value.is_graph_output()
    return [_name(value), *(_moved(users[0].outputs[0]) if further else [])]


def _climb(
    start: ir.Value | None, through: Collection[str], wanted: Callable[[ir.Node], bool]
) -> list[ir.Node]:
    """Return the nodes on the way up from a value to a wanted node, which is the last one.

    Empty if no way through these operators leads to one.
    """
    node = start.producer() if start is not None else None
    if node is None:
        return []
    if wanted(node):
        return [node]
    if node.op_type not in through:
        return []
    ways = (_climb(value, through, wanted) for value in node.inputs)
    way = next((way for way in ways if way), [])
    return [node, *way] if way else []


def _within_unit(value: ir.Value | None) -> bool:
    """Return whether all elements are known to lie in [0, 1]."""
    if value is None:
        return False
    if value.const_value is not None:
        return _constants_within_unit([value])
    node = value.producer()
    if node is None:
        return False
    if node.op_type in ("Softmax", "Sigmoid"):
        return True
    if node.op_type == "Clip":
        return len(node.inputs) > 2 and _constants_within_unit(node.inputs[1:3])
    if node.op_type in _KEEP_VALUES:
        return _within_unit(node.inputs[0])
    if node.op_type == "Mul":
        return all(map(_within_unit, node.inputs))
    return node.op_type == "Where" and all(map(_within_unit, node.inputs[1:]))


def _constants_within_unit(values: Iterable[ir.Value | None]) -> bool:
    arrays = [v.const_value.numpy() for v in values if v is not None and v.const_value is not None]
    return bool(arrays) and all(a.size and a.min() >= 0 and a.max() <= 1 for a in arrays)
