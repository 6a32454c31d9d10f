"""Split(R(X·W + b)) = (R(X·W₁ + b₁), R(X·W₂ + b₂), …) along the last axis, R an optional Reshape.

GPT-2 computes Q, K and V in one matmul and cuts the result apart. TensorRT-RTX
cuts the weight instead and then computes the parts in float; as separate
matmuls they stay in INT8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.initializers import add_initializer
from export.initializers import array_of as _array
from export.initializers import is_constant as _constant


class SplitFused(ir.passes.InPlacePass):
    """Cut fused projections with constant weights into one MatMul per part."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite all such Splits of the main graph."""
        found = [f for f in map(_match, list(model.graph)) if f is not None]
        for fused in found:
            _rewrite(model.graph, fused)
        return ir.passes.PassResult(model, modified=bool(found))


@dataclass(frozen=True, slots=True)
class _Fused:
    split: ir.Node
    reshape: ir.Node | None
    add: ir.Node | None
    matmul: ir.Node
    sizes: list[int]


def _match(split: ir.Node) -> _Fused | None:
    """Return the chain above a Split on the last axis, if every value has that one use."""
    if split.op_type != "Split":
        return None
    reshape = _only_producer(split.inputs[0], "Reshape")
    add = _only_producer(reshape.inputs[0] if reshape else split.inputs[0], "Add")
    below = add or reshape or split
    matmul = _only_producer(below.inputs[0], "MatMul")
    if matmul is None or not _constant(matmul.inputs[1]):
        return None
    bias = add.inputs[1] if add else None
    weight = _array(matmul.inputs[1])
    if weight.ndim != 2 or (reshape and _last_length(reshape.inputs[1]) != weight.shape[1]):
        return None
    if bias is not None and (not _constant(bias) or _array(bias).shape != weight.shape[-1:]):
        return None
    sizes = _sizes(split, weight.shape[-1])
    whole = sizes is not None and sum(sizes) == weight.shape[-1]
    return _Fused(split, reshape, add, matmul, sizes) if sizes and whole else None


def _only_producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    if node is None or node.op_type != op_type or value is None or value.is_graph_output():
        return None
    return node if len(value.uses()) == 1 else None


def _last_length(shape: ir.Value | None) -> int | None:
    """Return the last element of a Reshape's target where it is known: the axis must survive it."""
    node = shape.producer() if shape is not None else None
    last = node.inputs[-1] if node is not None and node.op_type == "Concat" else shape
    return int(_array(last).reshape(-1)[-1]) if _constant(last) else None


def _sizes(split: ir.Node, width: int) -> list[int] | None:
    source = split.inputs[0]
    rank = len(source.shape) if source is not None and source.shape is not None else None
    attribute = split.attributes.get("axis")
    axis = attribute.as_int() if attribute is not None else 0
    if axis != -1 and (rank is None or axis != rank - 1):
        return None
    if len(split.inputs) > 1 and split.inputs[1] is not None:
        return _array(split.inputs[1]).tolist() if _constant(split.inputs[1]) else None
    parts = len(split.outputs)
    return [width // parts] * parts if width % parts == 0 else None


def _rewrite(graph: ir.Graph, fused: _Fused) -> None:
    weight = _array(fused.matmul.inputs[1])
    starts = np.cumsum([0, *fused.sizes])
    for index, output in enumerate(fused.split.outputs):
        part = slice(int(starts[index]), int(starts[index + 1]))
        stem = f"{fused.matmul.inputs[1].name}_part{index}"  # type: ignore[union-attr]
        values = add_initializer(graph, f"{stem}_for_matmul", weight[:, part])
        nodes = [ir.node("MatMul", [fused.matmul.inputs[0], values])]
        nodes[0].metadata_props.update(fused.matmul.metadata_props)
        if fused.add is not None:
            bias = add_initializer(graph, f"{stem}_bias", _array(fused.add.inputs[1])[part])
            nodes.append(ir.node("Add", [nodes[-1].outputs[0], bias]))
        if fused.reshape is not None:
            nodes += _reshape(graph, fused.reshape, nodes[-1].outputs[0], fused.sizes[index], stem)
        result = nodes[-1].outputs[0]
        result.name, result.shape, result.type = output.name, output.shape, output.type
        graph.insert_before(fused.split, nodes)
        output.replace_all_uses_with(result, replace_graph_outputs=True)
    for node in (fused.split, fused.reshape, fused.add, fused.matmul):
        if node is not None:
            graph.remove(node, safe=True)


def _reshape(
    graph: ir.Graph, original: ir.Node, value: ir.Value, size: int, stem: str
) -> list[ir.Node]:
    """Return Reshape(value, [original shape without its last axis, size])."""
    leading = ir.node(
        "Slice",
        [
            original.inputs[1],
            add_initializer(graph, f"{stem}_from", np.array([0])),
            add_initializer(graph, f"{stem}_to", np.array([-1])),
        ],
    )
    last = add_initializer(graph, f"{stem}_size", np.array([size]))
    shape = ir.node("Concat", [leading.outputs[0], last], attributes={"axis": 0})
    return [leading, shape, ir.node("Reshape", [value, shape.outputs[0]])]
