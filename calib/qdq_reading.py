"""How a graph from anywhere is quantized: which operand of each product carries what Q/DQ.

A product is multiplied in INT8 only if both operands are INT8 and one scale per operand, or per
column of the result, can be taken out of the sum

    Y[t, n] = Σ_k  x[t, k]·s_x · W[k, n]·s_w[n]  =  s_x·s_w[n] · Σ_k x[t, k]·W[k, n]

so a scale along k, the axis that is summed over, leaves no INT8 product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from export.attentions import find_attentions
from export.passes.drop_qdq import DropQdq, quantizer_of
from export.passes.name_products import constant_behind
from export.products import INTEGER, LAYOUT, OPERANDS, operands_of, products

INT8_TYPES = ("int8", "uint8")

Granularity = Literal["tensor", "channel", "block"]
Extent = Literal["both", "partly", "none"]
Kind = Literal["matmul", "convolution", "attention"]


@dataclass(frozen=True, slots=True)
class Rounding:
    """What one Q/DQ pair, or a lone DequantizeLinear of integers, does to a value.

    Attributes:
        type: ``int8``, ``uint8`` or another type of ONNX, in lower case.
        granularity: How many scales there are.
        summed: Whether the scales lie along the axis that the product sums over.
        shifted: Whether a zero point is anything but 0.
        stored: Whether the integers are in the file: DequantizeLinear alone.
        half: Whether the scale is FP16.
        declared: Whether ``output_dtype`` alone says the type, for want of a zero point.
    """

    type: str
    granularity: Granularity
    summed: bool
    shifted: bool
    stored: bool
    half: bool = False
    declared: bool = False

    def __str__(self) -> str:
        scales = {"tensor": "per tensor", "channel": "per channel", "block": "per block"}
        along = " along the sum" if self.summed else ""
        zero = ", zero point not 0" if self.shifted else ""
        return f"{self.type} {scales[self.granularity]}{along}{zero}"


@dataclass(frozen=True, slots=True)
class Operand:
    """One side of a product; ``rounding`` is None where it is float."""

    weight: bool
    rounding: Rounding | None

    def __str__(self) -> str:
        side = "weight" if self.weight else "activation"
        return f"{side} {self.rounding if self.rounding is not None else 'float'}"


@dataclass(frozen=True, slots=True)
class Reading:
    """How one product is quantized.

    Attributes:
        name: Of the node.
        operator: Of ONNX.
        kind: Of the product; a MatMul inside an attention is a ``matmul``.
        operands: What it multiplies.
        output: What rounds its result, bias included, or None.
        bias: ``none``, ``float`` or ``int32`` behind DequantizeLinear.
        attention: The two MatMuls of the attention that it belongs to, else nothing.
    """

    name: str
    operator: str
    kind: Kind
    operands: tuple[Operand, ...]
    output: Rounding | None
    bias: Literal["none", "float", "int32"]
    attention: tuple[str, ...]

    @property
    def extent(self) -> Extent:
        """Whether both operands are quantized, or only something around it, or nothing.

        The operator Attention multiplies its weights P, to which no Q/DQ in a graph belongs.
        """
        if all(o.rounding is not None for o in self.operands):
            return "partly" if self.kind == "attention" else "both"
        rounded = self.output is not None or any(o.rounding is not None for o in self.operands)
        return "partly" if rounded else "none"

    @property
    def weighted(self) -> bool:
        """Whether one operand is a constant."""
        return any(o.weight for o in self.operands)

    @property
    def activations(self) -> list[Rounding]:
        """What rounds its activations."""
        return [o.rounding for o in self.operands if not o.weight and o.rounding is not None]

    def __str__(self) -> str:
        text = "; ".join(map(str, self.operands))
        text += f"; output {self.output}" if self.output is not None else ""
        return text + ("; bias int32" if self.bias == "int32" else "")


def read_qdq(model: ir.Model) -> list[Reading]:
    """Return how each product of the main graph is quantized, in order.

    Args:
        model: Of any placement; every product has a unique name.
    """
    bare = model.clone()
    DropQdq()(bare)
    pairs = {name: a.matmuls for a in find_attentions(bare) for name in a.matmuls}
    return [_read(node, pairs.get(str(node.name), ())) for node in products(model)]


def _read(node: ir.Node, attention: tuple[str, ...]) -> Reading:
    kind: Kind = "convolution" if "Conv" in node.op_type else "matmul"
    return Reading(
        name=str(node.name),
        operator=node.op_type,
        kind="attention" if node.op_type == "Attention" else kind,
        operands=tuple(_operand(node, side, v) for side, v in enumerate(operands_of(node))),
        output=_output(node),
        bias=_bias(node),
        attention=attention,
    )


def _operand(node: ir.Node, side: int, value: ir.Value) -> Operand:
    weight = constant_behind(value) is not None
    if node.op_type in INTEGER:
        kind = str(value.dtype.name if value.dtype is not None else "int8").lower()
        return Operand(weight, Rounding(kind, "tensor", False, False, weight))
    dequantizer = _dequantizer(value)
    if dequantizer is None:
        return Operand(weight, None)
    moved = dequantizer.outputs[0] is not value
    return Operand(weight, _rounding(dequantizer, _summed_axes(node, side), moved=moved))


def _dequantizer(value: ir.Value) -> ir.Node | None:
    """Return the DequantizeLinear that gives a value, but for its layout."""
    node = value.producer()
    while node is not None and node.op_type in LAYOUT:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _summed_axes(node: ir.Node, side: int) -> Sequence[int]:
    """Return the axes of an operand that a product sums over, from the end."""
    if "Conv" in node.op_type:
        return (1, 2, 3, 4) if side else (1,)
    name = "transB" if side else "transA"
    flag = node.attributes.get(name) if node.op_type == "Gemm" else None
    transposed = flag is not None and bool(flag.as_int())
    return (-1 if transposed == bool(side) else -2,)


def _rounding(node: ir.Node, summed: Sequence[int], *, moved: bool) -> Rounding:
    """Read a DequantizeLinear.

    Args:
        node: The DequantizeLinear.
        summed: Axes that the product sums over.
        moved: Whether something changes the layout between it and the product; scales of an
            activation are then taken to lie along the sum, as they are where its rank is not
            known.
    """
    quantizer = quantizer_of(node)
    scale = node.inputs[1]
    granularity: Granularity = "tensor"
    rank = _rank(node.inputs[0], quantizer)
    if scale is not None and _size(scale) != 1:
        granularity = "channel" if _dimensions(scale) == 1 else "block"
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    along = {axis, axis - rank} if rank and axis >= 0 else {axis}
    weight = constant_behind(node.outputs[0]) is not None
    known = weight or (rank > 0 and not moved)
    lies = bool(along.intersection(summed)) if known else bool(summed)
    return Rounding(
        type=_type(node, quantizer),
        granularity=granularity,
        summed=granularity == "channel" and lies,
        shifted=_shifted(node),
        stored=quantizer is None,
        half=scale is not None and scale.dtype == ir.DataType.FLOAT16,
        declared=quantizer is not None and len(quantizer.inputs) < 3 and _declared(quantizer) > 0,
    )


def _rank(value: ir.Value | None, quantizer: ir.Node | None) -> int:
    """Return how many axes what is dequantized has, 0 if that is not known."""
    values = [value, quantizer.inputs[0] if quantizer is not None else None]
    return next((v.shape.rank() for v in values if v is not None and v.shape is not None), 0)


def _size(value: ir.Value) -> int | None:
    if value.const_value is not None:
        return value.const_value.size
    return 1 if value.shape is not None and value.shape.rank() == 0 else None


def _dimensions(value: ir.Value) -> int:
    return value.shape.rank() if value.shape is not None else 1


def _type(node: ir.Node, quantizer: ir.Node | None) -> str:
    """Return the integers' type: of the stored ones, of the zero point, or what Q declares."""
    values = [node.inputs[0], *(n.inputs[2] for n in (node, quantizer) if n and len(n.inputs) > 2)]
    known = [v.dtype for v in values if v is not None and v.dtype is not None]
    if quantizer is not None and _declared(quantizer):
        known.append(ir.DataType(_declared(quantizer)))
    return (known[0] if known else ir.DataType.UINT8).name.lower()


def _declared(quantizer: ir.Node) -> int:
    """Return the number of the type that ``output_dtype`` declares, 0 for none."""
    attribute = quantizer.attributes.get("output_dtype")
    return attribute.as_int() if attribute is not None else 0


def _shifted(node: ir.Node) -> bool:
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is None or zero.const_value is None:
        return zero is not None
    array: np.ndarray = np.asarray(zero.const_value.numpy())
    return bool(array.astype(np.float32).any())


def _output(node: ir.Node) -> Rounding | None:
    """Read the Q/DQ of a result, behind a constant bias and changes of layout.

    Behind a product of activations and a change of layout, Q/DQ that only the next product
    reads belongs to that one.
    """
    weighted = any(constant_behind(v) is not None for v in operands_of(node))
    value = node.outputs[0]
    while True:
        users = [user for user, _ in value.uses()]
        readers = [
            reader
            for user in users
            if user.op_type == "QuantizeLinear"
            for reader, _ in user.outputs[0].uses()
            if reader.op_type == "DequantizeLinear"
        ]
        if readers:
            own = weighted or value is node.outputs[0] or not _feeds_products(readers[0])
            return _rounding(readers[0], (), moved=False) if own else None
        if len(users) != 1 or not (users[0].op_type in LAYOUT or _adds_constant(users[0])):
            return None
        value = users[0].outputs[0]


def _feeds_products(node: ir.Node) -> bool:
    """Return whether all that reads a node's result, but for its layout, multiplies it."""
    users = [user for user, _ in node.outputs[0].uses()]
    return bool(users) and all(
        u.op_type in OPERANDS or (u.op_type in LAYOUT and _feeds_products(u)) for u in users
    )


def _adds_constant(node: ir.Node) -> bool:
    return node.op_type == "Add" and any(constant_behind(v) is not None for v in node.inputs)


def _bias(node: ir.Node) -> Literal["none", "float", "int32"]:
    given = node.inputs[2] if node.op_type in ("Gemm", "Conv") and len(node.inputs) > 2 else None
    if given is None and node.op_type == "MatMul":
        users = [user for user, _ in node.outputs[0].uses()]
        if len(users) == 1 and _adds_constant(users[0]):
            given = next(v for v in users[0].inputs if v is not node.outputs[0])
    if given is None:
        return "none"
    dequantizer = _dequantizer(given)
    return "int32" if dequantizer is not None and _type(dequantizer, None) == "int32" else "float"
