"""Graphs in float arithmetic that give what is inside them, or go on from what they are given.

A spliced graph takes the values of an arm at its taps, and computes every next tap from them: layer
by layer what that layer alone does, with no error from before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from deploy.sessions import Precision
from export.onnx_file import load_clean
from export.passes.round_rest import RoundRest
from export.passes.simulate import Simulate

_GIVEN = "given "


def tapped_graph(path: Path, values: Sequence[str], rest: Precision = "fp32") -> ir.Model:
    """Return a graph in float arithmetic with more outputs.

    Args:
        path: A Q/DQ graph or a float one.
        values: By name; those that are outputs already stay where they are.
        rest: What floats outside Q/DQ are rounded to.
    """
    model = load_clean(path)
    if rest != "fp32":
        RoundRest(rest)(model)
    made = {str(v.name): v for node in model.graph for v in node.outputs}
    outputs = {str(o.name) for o in model.graph.outputs}
    model.graph.outputs.extend(made[n] for n in dict.fromkeys(values) if n not in outputs)
    Simulate()(model)
    return model


def splice(model: ir.Model, values: Sequence[str]) -> ir.Model:
    """Let whatever reads one of a graph's outputs read an input of its own instead, in place.

    Args:
        model: As :func:`tapped_graph` returned it.
        values: Of its outputs; the inputs are called as :func:`given_name` says.
    """
    outputs = {str(o.name): o for o in model.graph.outputs}
    for name in values:
        value = outputs[name]
        given = ir.Value(name=given_name(name), type=ir.TensorType(ir.DataType.FLOAT))
        for user, index in tuple(value.uses()):
            user.replace_input_with(index, given)
        model.graph.inputs.append(given)
    return model


def given_name(value: str) -> str:
    """Return the input of a spliced graph that takes a value."""
    return _GIVEN + value
