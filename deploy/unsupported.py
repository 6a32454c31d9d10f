"""A graph that an engine refuses: at which operator, and which other engine has it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from deploy.engines import ENGINES
from deploy.sessions import BuildRequest, Engine
from export.onnx_file import load_clean, save_model
from trueint8.errors import BuildError, TrueInt8Error
from trueint8.progress import Silence

_ANY_LENGTH = 8
"""Of an axis whose length the graph leaves open."""


def explained(error: BuildError, engine: str, graph: Path) -> BuildError:
    """Return an engine's refusal with the operator it names, its node, and who has it.

    Args:
        error: Of the engine's build.
        engine: Its name.
        graph: What it was given.

    Returns:
        ``error`` itself where its text names no operator of the graph.
    """
    model = load_clean(graph)
    common.ShapeInferencePass()(model)
    node = _named_node(model, error.problem)
    if node is None:
        return error
    domain = f"{node.domain}." if node.domain else ""
    having = [n for n in ENGINES.names() if n != engine and _accepts(n, node, model)]
    return BuildError(
        f"{engine} does not take the operator {domain}{node.op_type} of node "
        f"{node.name or node.outputs[0].name!r}: {error.problem}",
        fix=f"build with --engine {having[0]}, which has it"
        if having
        else "replace it before export: no other engine that is installed here has it",
    )


def _named_node(model: ir.Model, text: str) -> ir.Node | None:
    """Return the node that a message names by itself, else the first of an operator it names."""
    words = set(re.findall(r"[A-Za-z_]\w*", text))
    named = [n for n in model.graph if n.op_type in words]
    return next((n for n in named if n.name and n.name in text), named[0] if named else None)


def _accepts(name: str, node: ir.Node, model: ir.Model) -> bool:
    """Build the one node alone with another engine."""
    engine: Engine = ENGINES.load(name)
    if engine.runs_checkpoint:
        return False
    with tempfile.TemporaryDirectory(prefix="trueint8-") as scratch:
        folder = Path(scratch) / "engine"
        folder.mkdir()
        alone = _alone(node, model)
        path = Path(scratch) / "alone.onnx"
        shapes = {}
        for value in alone.graph.inputs:
            assert value.shape is not None
            shape = tuple(d for d in value.shape if isinstance(d, int))
            shapes[str(value.name)] = (shape, shape, shape)
        try:
            save_model(alone, path)
            engine.build(BuildRequest(path, folder, shapes, Silence()))
        except TrueInt8Error:
            return False
    return True


def _alone(node: ir.Node, model: ir.Model) -> ir.Model:
    """Return a graph of one node; what is no constant becomes an input of fixed shape."""
    graph = ir.Graph([], [], nodes=[], opset_imports=model.graph.opset_imports, name="alone")
    operands: list[ir.Value | None] = []
    for index, value in enumerate(node.inputs):
        if value is None:
            operands.append(None)
            continue
        copy = ir.Value(name=f"x{index}", type=value.type, shape=_fixed(value))
        if value.const_value is not None:
            copy.const_value = ir.tensor(np.asarray(value.const_value.numpy()), name=copy.name)
            graph.register_initializer(copy)
        else:
            graph.inputs.append(copy)
        operands.append(copy)
    made = ir.Node(
        node.domain,
        node.op_type,
        operands,
        list(node.attributes.values()),
        num_outputs=len(node.outputs),
        name="alone",
    )
    for index, (old, new) in enumerate(zip(node.outputs, made.outputs, strict=True)):
        new.name, new.type = f"y{index}", old.type or ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.append(new)
    graph.append(made)
    return ir.Model(graph, ir_version=model.ir_version)


def _fixed(value: ir.Value) -> ir.Shape:
    dims = value.shape or ()
    return ir.Shape([d if isinstance(d, int) else _ANY_LENGTH for d in dims])
