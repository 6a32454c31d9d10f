"""softmax(Z + mask) ⟶ softmax(round(Z / s)·s + mask), s = max|Z| / (2ᵇ⁻¹ − 1): b-bit logits.

Z = QKᵀ·scaling are the attention logits of one call, (B, H, T, S), and s is one number for all
of them, computed anew in each call (absmax, dynamic). The mask is added afterwards, so that its
−3.4e38 does not enter the maximum; the logits of masked positions do, and so do those of all
sequences of the batch. A differential attention has two maps and one s for each.

All arithmetic is float: the values are those of b-bit logits (SIMULATED).

References:
    Ye et al. 2024, arXiv:2410.05258, figure 8.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.initializers import add_initializer, fresh_name
from export.matmuls import weight_initializer
from trueint8.errors import ConfigError, ExportError

_FEWEST_BITS, _MOST_BITS = 2, 16
_SCALES = ("Mul", "Div")
_PASSES = ("Cast", "Identity", "Reshape")
_DEEPEST = 8
"""Operators between logits and softmax, at most: masks and position biases."""


class RoundLogits(ir.passes.InPlacePass):
    """See the module's docstring.

    Args:
        bits: b, 2 to 16.

    Raises:
        ConfigError: If the bits are out of range.
    """

    def __init__(self, bits: int) -> None:
        if not _FEWEST_BITS <= bits <= _MOST_BITS:
            raise ConfigError(
                f"{bits} bits of logits are out of range; expected {_FEWEST_BITS} to {_MOST_BITS}",
                fix="pass --logits-bits 8",
            )
        self.levels = (1 << (bits - 1)) - 1

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every attention of the main graph.

        Raises:
            ExportError: If the graph has none.
        """
        graph = model.graph
        found = attention_logits(graph)
        if not found:
            raise ExportError(
                "the graph has no attention whose logits are found: a Softmax behind the product "
                "of two activations",
                fix="leave out --logits-bits",
            )
        levels = add_initializer(
            graph, fresh_name(graph, "logits_levels"), np.array(self.levels, np.float32)
        )
        least = add_initializer(
            graph, fresh_name(graph, "logits_tiny"), np.array(np.finfo(np.float32).tiny)
        )
        for logits in found:
            _round(graph, logits, levels, least)
        return ir.passes.PassResult(model, modified=True)


def attention_logits(graph: ir.Graph) -> list[ir.Value]:
    """Return the scaled product of Q and K of every attention, before any mask, each once."""
    behind = (_scores(n.inputs[0], _DEEPEST) for n in graph if n.op_type == "Softmax")
    return list(dict.fromkeys(value for value in behind if value is not None))


def _scores(value: ir.Value | None, depth: int) -> ir.Value | None:
    """Return the scaled product that a softmax's input is, or is a sum with; None if it is none."""
    node = value.producer() if value is not None else None
    if node is None or depth == 0:
        return None
    if _is_product(value, depth):
        return value
    inputs = node.inputs[1:] if node.op_type == "Where" else node.inputs
    if node.op_type not in ("Add", "Sub", "Where", "Max", "Clip", *_PASSES):
        return None
    found = (_scores(v, depth - 1) for v in inputs)
    return next((v for v in found if v is not None), None)


def _is_product(value: ir.Value | None, depth: int) -> bool:
    """Return whether the value is a matmul of two activations, times constants."""
    node = value.producer() if value is not None else None
    if node is None or depth == 0:
        return False
    if node.op_type == "MatMul":
        return not any(v is not None and weight_initializer(v) is not None for v in node.inputs)
    if node.op_type in _SCALES:
        constant = [v is not None and v.is_initializer() for v in node.inputs]
        if sum(constant) != 1:
            return False
        return _is_product(node.inputs[constant.index(False)], depth - 1)
    return node.op_type in _PASSES and _is_product(node.inputs[0], depth - 1)


def _round(graph: ir.Graph, logits: ir.Value, levels: ir.Value, least: ir.Value) -> None:
    magnitude = ir.node("Abs", [logits])
    largest = ir.node("ReduceMax", [magnitude.outputs[0]], attributes={"keepdims": 0})
    step = ir.node("Div", [largest.outputs[0], levels])
    scale = ir.node("Max", [step.outputs[0], least])  # all logits 0: any step will do
    steps = ir.node("Div", [logits, scale.outputs[0]])
    rounded = ir.node("Round", [steps.outputs[0]])
    result = ir.node("Mul", [rounded.outputs[0], scale.outputs[0]])
    producer = logits.producer()
    assert producer is not None
    logits.replace_all_uses_with(result.outputs[0], replace_graph_outputs=True)
    for node, place in ((magnitude, 0), (steps, 0)):
        node.replace_input_with(place, logits)
    graph.insert_after(producer, [magnitude, largest, step, scale, steps, rounded, result])
