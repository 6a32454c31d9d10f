"""f in FP32 becomes f in FP16, sums and squares left in FP32; inputs and outputs keep their types.

    y = f(x)   ⟶   y = Cast₃₂(f₁₆(Cast₁₆(x)))

Scales of Q/DQ become FP16 as well, so that TensorRT's strong typing accepts them: a graph
whose scales are FP32 does not parse between FP16 tensors. Weights and constants beyond
FP16's range, such as the −3.4e38 of a mask, become ±65504 where they bound something and
half of that where they are added, so that one more term leaves the sum finite.

What loses its sense in FP16 stays FP32, between Casts: squares, means, roots, their
reciprocals and logarithms, and the additions and products that read them, which is a
LayerNorm or RMSNorm written out; the single operators compute in FP32 by themselves.
So does the core of a quantized clipped attention in a graph of fixed shapes, from Q·Kᵀ to
P·V with all its Q/DQ: TensorRT fuses it, and refuses the same in FP16.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from export.attentions import core_nodes, find_attentions, static_shapes
from export.initializers import add_initializer, fresh_name, remove_unused_initializers
from trueint8.errors import ExportError

LARGEST = float(np.finfo(np.float16).max)
OLDEST_OPSET = 19
"""First in which the scales of Q/DQ may be FP16."""

_SINGLE = frozenset(
    [
        "CumSum",
        "Exp",
        "Log",
        "Pow",
        "Range",
        "Reciprocal",
        "ReduceL2",
        "ReduceMean",
        "ReduceSum",
        "ReduceSumSquare",
        "Resize",
        "Sqrt",
    ]
)
_FOLLOWING = frozenset(["Add", "Clip", "Div", "Mul", "Sub"])
_BOUNDING = frozenset(["Clip", "Max", "Min"])
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")


class ToHalf(ir.passes.InPlacePass):
    """See the module's docstring."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph.

        Raises:
            ExportError: If it holds If, Loop or Scan, or its opset is older than 19.
        """
        _check(model)
        common.ShapeInferencePass(strict_mode=False)(model)
        _Typing(model.graph, _kept_nodes(model)).write()
        remove_unused_initializers(model.graph)
        return ir.passes.PassResult(model, modified=True)


def half_graph(model: ir.Model) -> ir.Model:
    """Return a graph in FP16, converted to opset 19 if it is older.

    Raises:
        ExportError: If it can be neither.
    """
    if model.graph.opset_imports.get("", 0) < OLDEST_OPSET:
        try:
            proto = onnx.version_converter.convert_version(ir.to_proto(model), OLDEST_OPSET)
        except Exception as err:  # the converter raises RuntimeError subclasses of its own
            raise _too_old(model) from err
        model = ir.from_proto(proto)
    ToHalf()(model)
    return model


def _too_old(model: ir.Model) -> ExportError:
    opset = model.graph.opset_imports.get("", 0)
    return ExportError(
        f"the graph is of opset {opset}; FP16 scales need {OLDEST_OPSET}",
        fix=f"export the model with opset {OLDEST_OPSET} or later, or pass --fp32-rest",
    )


def _check(model: ir.Model) -> None:
    if model.graph.opset_imports.get("", 0) < OLDEST_OPSET:
        raise _too_old(model)
    inner = [n for n in model.graph if n.op_type in ("If", "Loop", "Scan")]
    if inner:
        raise ExportError(
            f"the graph holds {inner[0].op_type}, whose body cannot be written in FP16",
            fix="export the model without control flow, or pass --fp32-rest",
        )


def _kept_nodes(model: ir.Model) -> set[ir.Node]:
    """Return the nodes that stay FP32."""
    clipped = [a.product for a in find_attentions(model) if a.clipped and static_shapes(model)]
    kept: set[ir.Node] = set()
    for node in model.graph:
        follows = node.op_type in _FOLLOWING and any(n.op_type in _SINGLE for n in _above([node]))
        if follows or node.op_type in _SINGLE:
            kept.add(node)
        if node.name in clipped and _pairs(_above([node])):
            kept |= _core_with_qdq(node)
    return kept


def _core_with_qdq(product: ir.Node) -> set[ir.Node]:
    """Return an attention's core, and the Q/DQ of its operands and of its output."""
    core = set(core_nodes(product))
    dequantize = _pairs(_above(core))
    quantize = _pairs(n for v in product.outputs for n, _ in v.uses())
    behind = _pairs(n for q in quantize for v in q.outputs for n, _ in v.uses())
    return core | dequantize | _pairs(_above(dequantize)) | quantize | behind


def _above(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    makers = (v.producer() for node in nodes for v in node.inputs if v is not None)
    return [n for n in makers if n is not None]


def _pairs(nodes: Iterable[ir.Node]) -> set[ir.Node]:
    return {n for n in nodes if n.op_type in _QDQ}


class _Typing:
    """Gives the float values of a graph the type they shall have."""

    def __init__(self, graph: ir.Graph, kept: set[ir.Node]) -> None:
        self.graph = graph
        self.kept = kept
        self.types = {v: ir.DataType.FLOAT for v in graph.inputs if v.dtype == ir.DataType.FLOAT}
        self.made: dict[tuple[ir.Value, object], ir.Value] = {}

    def write(self) -> None:
        """Retype all nodes in topological order, with Casts where two types meet."""
        for node in list(self.graph):
            wanted = ir.DataType.FLOAT if node in self.kept else ir.DataType.FLOAT16
            for index, value in enumerate(node.inputs):
                if value is None:
                    continue
                if value.is_initializer() and value.dtype == ir.DataType.FLOAT:
                    if wanted == ir.DataType.FLOAT16:
                        node.replace_input_with(index, self._half(node, index, value))
                elif self.types.get(value, wanted) != wanted:
                    node.replace_input_with(index, self._cast(value, wanted))
            for value in node.outputs:
                if value.dtype == ir.DataType.FLOAT:
                    self.types[value] = wanted
                    value.type = ir.TensorType(wanted)
            if wanted == ir.DataType.FLOAT16:
                _retype_attributes(node)
        self._restore_outputs()

    def _half(self, node: ir.Node, index: int, value: ir.Value) -> ir.Value:
        """Return the constant in FP16, as this input of this node needs it."""
        scale = node.op_type in _QDQ and index == 1
        bound = LARGEST if node.op_type in _BOUNDING else LARGEST / 2
        if (value, (scale, bound)) not in self.made:
            assert value.const_value is not None
            array = value.const_value.numpy()
            array = np.where(np.abs(array) > LARGEST, np.sign(array) * bound, array)
            array = array.astype(np.float16)
            if scale:
                array = np.maximum(array, np.finfo(np.float16).smallest_subnormal)
            name = fresh_name(self.graph, f"{value.name}_half")
            self.made[value, (scale, bound)] = add_initializer(self.graph, name, array)
        return self.made[value, (scale, bound)]

    def _cast(self, value: ir.Value, to: ir.DataType) -> ir.Value:
        if (value, to) not in self.made:
            node = ir.node("Cast", [value], attributes={"to": to})
            node.outputs[0].name = fresh_name(self.graph, f"{value.name}_{to.name.lower()}")
            node.outputs[0].type, node.outputs[0].shape = ir.TensorType(to), value.shape
            maker = value.producer()
            if maker is None:
                self.graph.insert_before(self.graph[0], node)
            else:
                self.graph.insert_after(maker, node)
            self.made[value, to] = node.outputs[0]
        return self.made[value, to]

    def _restore_outputs(self) -> None:
        """Let every output of the graph keep its name and its type."""
        for index, value in enumerate(list(self.graph.outputs)):
            if self.types.get(value) == ir.DataType.FLOAT16:
                name = value.name
                value.name = fresh_name(self.graph, f"{name}_half")
                result = self._cast(value, ir.DataType.FLOAT)
                result.name = name
                self.graph.outputs[index] = result


def _retype_attributes(node: ir.Node) -> None:
    for name in _TYPE_ATTRIBUTES:
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.as_int() == ir.DataType.FLOAT:
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT16)
    filled = node.attributes.get("value")
    if node.op_type == "ConstantOfShape" and filled is None:
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.zeros(1, np.float16)))
    elif filled is not None and filled.as_tensor().dtype == ir.DataType.FLOAT:
        half = ir.tensor(filled.as_tensor().numpy().astype(np.float16))
        node.attributes["value"] = ir.AttrTensor("value", half)
