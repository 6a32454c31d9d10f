"""Y = X·W + b, with names by which it can be found again in what an engine makes of it.

Names that nodes have stay, as long as they are unique. A weight is called after its product,
``name.weight``; so is the addition or scale behind it, ``name/add``; and Q/DQ after the value
that it rounds, because engines keep these names where they fuse.
"""

from __future__ import annotations

import onnx_ir as ir

from export.initializers import fresh_name
from export.products import LAYOUT, operands_of, products

_EPILOGUES = ("Add", "Mul", "Div")
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_BEFORE_WEIGHT = LAYOUT | set(_QDQ)


class NameProducts(ir.passes.InPlacePass):
    """Rename nodes and weights of the main graph, and nothing else."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename."""
        graph = model.graph
        multiplying = products(model)
        taken: set[str] = set()
        for index, node in enumerate(multiplying):
            _name(node, node.name or f"{node.op_type}.{index}", taken)
        for node in multiplying:
            _name_weight(graph, node)
            follower = _follower(node)
            if follower is not None:
                _name(follower, f"{node.name}/{follower.op_type.lower()}", taken)
        named = {*multiplying, *filter(None, map(_follower, multiplying))}
        for index, node in enumerate(graph):
            if node in named:
                continue
            base = node.name or f"{node.op_type}.{index}"
            if node.op_type in _QDQ:
                base = f"{node.inputs[0].name if node.inputs[0] else index}/{node.op_type}"
            _name(node, base, taken)
        return ir.passes.PassResult(model, modified=True)


def _name(node: ir.Node, base: str, taken: set[str]) -> None:
    name, count = base, 0
    while name in taken:
        count += 1
        name = f"{count}.{base}"
    taken.add(name)
    node.name = name


def _follower(node: ir.Node) -> ir.Node | None:
    """Return the addition or scale that alone reads a product."""
    uses = list(node.outputs[0].uses())
    follower = uses[0][0] if len(uses) == 1 else None
    return follower if follower is not None and follower.op_type in _EPILOGUES else None


def _name_weight(graph: ir.Graph, node: ir.Node) -> None:
    for operand in operands_of(node)[1:]:
        weight = constant_behind(operand)
        wanted = f"{node.name}.weight"
        if weight is None or weight.name == wanted or len(weight.uses()) != 1:
            continue
        name = fresh_name(graph, wanted)
        weight.name = name
        assert weight.const_value is not None
        weight.const_value.name = name


def constant_behind(value: ir.Value | None) -> ir.Value | None:
    """Return the initializer that a value is, but for its layout and rounding; else None."""
    while value is not None and not value.is_initializer():
        node = value.producer()
        if node is None or node.op_type not in _BEFORE_WEIGHT:
            return None
        value = node.inputs[0]
    return value if value is not None and value.const_value is not None else None
