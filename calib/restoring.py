"""Matmuls of a Q/DQ graph back in float: the graph with other placements, at no new cost.

    DQ(Q(X)) · DQ(W_int8) + b'   becomes   X · W + b

X is what Q reads; W and b come from the float graph that Q/DQ were inserted into. Scales and
integers of the other matmuls stay as they are: nothing is calibrated or rounded again, so the
result is what an insertion of Q/DQ around the others alone would have given.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from export.initializers import add_initializer, fresh_name, remove_unused_initializers
from export.matmuls import weight_array, weight_initializer
from trueint8.errors import ConfigError


def restore_float(model: ir.Model, original: ir.Model, matmuls: Collection[str]) -> None:
    """Take Q/DQ off both operands of some matmuls, in place.

    Args:
        model: A Q/DQ graph of :func:`calib.qdq.insert_qdq`; changed.
        original: The float graph it was made of.
        matmuls: Names of matmuls that carry Q/DQ.

    Raises:
        ConfigError: If one of them carries no Q/DQ, or the float graph has another one.
    """
    nodes = {node.name: node for node in model.graph}
    sources = {node.name: node for node in original.graph}
    for name in matmuls:
        node, source = nodes.get(name), sources.get(name)
        if node is None or source is None or not _restore(model.graph, node, source):
            raise ConfigError(
                f"the matmul {name!r} is not quantized in the form this version writes: Q/DQ on "
                "its operands, with its float weight under the same name",
                fix="use a bundle that `deploy build` of this version wrote",
            )
        _restore_bias(model.graph, node, source)
    common.RemoveUnusedNodesPass()(model)
    remove_unused_initializers(model.graph)


def _restore(graph: ir.Graph, node: ir.Node, source: ir.Node) -> bool:
    """Return whether any operand was restored."""
    found = False
    for index, operand in enumerate(node.inputs):
        made = operand.producer() if operand is not None else None
        if made is None or made.op_type != "DequantizeLinear":
            continue
        stored, given = made.inputs[0], source.inputs[index]
        assert stored is not None and given is not None
        quantizer = stored.producer()
        if quantizer is not None and quantizer.op_type == "QuantizeLinear":
            node.replace_input_with(index, quantizer.inputs[0])
        elif weight_initializer(given) is not None:
            name = fresh_name(graph, f"{node.name}.weight_float")
            node.replace_input_with(index, add_initializer(graph, name, weight_array(given)))
        else:
            return False
        found = True
    return found


def _restore_bias(graph: ir.Graph, node: ir.Node, source: ir.Node) -> None:
    """Undo what bias correction added to a matmul's bias, if it did."""
    here, there = _bias(node), _bias(source)
    if here is None:
        return
    add, place, array = here
    before = there[2] if there is not None else np.zeros_like(array)
    if not np.array_equal(array, before):
        name = fresh_name(graph, f"{node.name}.bias_float")
        add.replace_input_with(place, add_initializer(graph, name, before))


def _bias(node: ir.Node) -> tuple[ir.Node, int, np.ndarray] | None:
    """Return the Add of a vector behind a matmul, where the vector is, and the vector."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or uses[0][0].op_type != "Add":
        return None
    add, place = uses[0]
    other = add.inputs[1 - place]
    if other is None or not other.is_initializer() or other.const_value is None:
        return None
    array = other.const_value.numpy()
    return (add, 1 - place, array) if array.ndim == 1 else None
