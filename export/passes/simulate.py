"""Quantized values in float arithmetic, so that no engine can fuse it into integer kernels.

    Q(x; s, z)  = clip(round_half_even(x / s), low − z, high − z)     (kept as float, less z)
    DQ(q; s, z) = q · s
    DQ(W; s, z) = the float initializer (W − z) · s
    DynamicQ(x) = Q(x; s, z),  s = (max(x, 0) − min(x, 0)) / 255,  z = round(−min(x, 0) / s)
    MatMulInteger(q, W, z, z_w) = MatMul(q, W − z_w)

low and high are those of the integer type. The values are those of the quantized graph; every
matmul multiplies floats.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.initializers import add_initializer, fresh_name, remove_unused_initializers
from trueint8.errors import ExportError

_LIMITS = {ir.DataType.INT8: (-128, 127), ir.DataType.UINT8: (0, 255)}
_DEQUANTIZED = (*_LIMITS, ir.DataType.INT32)


class Simulate(ir.passes.InPlacePass):
    """Replace every Q, DQ, integer matmul and quantized initializer by floats of equal value.

    Raises:
        ExportError: At what it does not know: another integer type, an activation with a scale
            per channel or block, QLinear operators, integers from elsewhere.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph."""
        rewriting = _Rewriting(model.graph)
        rules = {
            "QuantizeLinear": rewriting.quantize,
            "DynamicQuantizeLinear": rewriting.quantize_dynamically,
            "DequantizeLinear": rewriting.dequantize,
            "MatMulInteger": rewriting.multiply,
        }
        nodes = list(model.graph)
        for node in nodes:
            if node.op_type.startswith("QLinear"):
                raise _unknown(node, "only Q/DQ and MatMulInteger are")
        for operator, rule in rules.items():
            for node in nodes:
                if node.op_type == operator:
                    rule(node)
        remove_unused_initializers(model.graph)
        return ir.passes.PassResult(model, modified=any(n.op_type in rules for n in nodes))


class _Rewriting:
    """One graph under way, and the zero point that each float stand-in for integers leaves out."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._left_out: dict[ir.Value, np.ndarray | ir.Value] = {}
        self._constants: dict[int, ir.Value] = {}

    def quantize(self, node: ir.Node) -> None:
        x, scale = _input(node, 0), _input(node, 1)
        kind = _quantized_type(node)
        if kind not in _LIMITS:
            raise _unknown(node, f"of {kind}")
        low, high = _LIMITS[kind]
        zero = _zero_point(node)
        if x.const_value is not None:
            divisor, around = _along_axis(node, x, scale), _reshaped(node, x, zero)
            steps = np.rint(x.const_value.numpy() / divisor)
            self._left_out[self._store(node, np.clip(steps, low - around, high - around))] = zero
            return
        _refuse_many(node, scale, zero)
        limits = [self._constant(limit - int(zero.item())) for limit in (low, high)]
        self._left_out[self._clip(node, x, scale, limits)] = zero

    def quantize_dynamically(self, node: ir.Node) -> None:
        x = _input(node, 0)
        nothing, most = self._constant(0), self._constant(255)
        extremes = [
            self._add(node, name, [self._add(node, f"Reduce{name}", [x], keepdims=0), nothing])
            for name in ("Min", "Max")
        ]
        extent = self._add(node, "Sub", extremes[::-1])
        tiny = add_initializer(
            self._graph,
            fresh_name(self._graph, f"{node.outputs[1].name}_least"),
            np.array(np.finfo(np.float32).tiny),
        )
        scale = self._add(node, "Max", [self._add(node, "Div", [extent, most]), tiny])
        below = self._add(node, "Neg", [self._add(node, "Div", [extremes[0], scale])])
        zero = self._add(node, "Round", [self._add(node, "Clip", [below, nothing, most])])
        limits = [self._add(node, "Neg", [zero]), self._add(node, "Sub", [most, zero])]
        _, old_scale, old_zero = node.outputs
        old_scale.replace_all_uses_with(scale)
        old_zero.replace_all_uses_with(zero)
        self._left_out[self._clip(node, x, scale, limits)] = zero

    def dequantize(self, node: ir.Node) -> None:
        x, scale = _input(node, 0), _input(node, 1)
        integers = self._without_zero(node, x, _zero_point(node))
        if integers is not None:
            self._store(node, integers * _along_axis(node, x, scale))
            return
        _refuse_many(node, scale)
        self._replace(node, self._add(node, "Mul", [x, scale]))

    def multiply(self, node: ir.Node) -> None:
        operands = []
        for index in (0, 1):
            value = _input(node, index)
            given = node.inputs[index + 2] if len(node.inputs) > index + 2 else None
            zero: np.ndarray | ir.Value = np.zeros((), np.float32)
            if given is not None:
                known = given.const_value
                zero = given if known is None else known.numpy().astype(np.float32)
            integers = self._without_zero(node, value, zero)
            if integers is not None:
                name = fresh_name(self._graph, f"{value.name}_float")
                value = add_initializer(self._graph, name, integers)
            operands.append(value)
        product = self._add(node, "MatMul", operands)
        maker = product.producer()
        assert maker is not None
        maker.name = node.name
        self._replace(node, product)

    def _without_zero(
        self, node: ir.Node, value: ir.Value, zero: np.ndarray | ir.Value
    ) -> np.ndarray | None:
        """Return constant integers less their zero point, or None for an activation's stand-in."""
        left_out = self._left_out.get(value)
        known = value.const_value
        constant: np.ndarray | None = np.asarray(known.numpy()) if known is not None else None
        if left_out is None:
            if constant is None or value.dtype not in _DEQUANTIZED or isinstance(zero, ir.Value):
                raise _unknown(node, "of integers that no QuantizeLinear gave are")
            integers: np.ndarray = constant.astype(np.float32) - _reshaped(node, value, zero)
            return integers
        same = left_out is zero
        if not isinstance(left_out, ir.Value) and not isinstance(zero, ir.Value):
            same = np.array_equal(left_out, zero)
        if not same:
            raise _unknown(node, "with another zero point than its QuantizeLinear")
        return constant

    def _clip(
        self, node: ir.Node, x: ir.Value, scale: ir.Value, limits: list[ir.Value]
    ) -> ir.Value:
        rounded = self._add(node, "Round", [self._add(node, "Div", [x, scale])])
        clipped = self._add(node, "Clip", [rounded, *limits])
        self._replace(node, clipped)
        return clipped

    def _add(
        self, before: ir.Node, operator: str, inputs: list[ir.Value], **attributes: int
    ) -> ir.Value:
        made = ir.node(operator, inputs, attributes=attributes)
        self._graph.insert_before(before, made)
        return made.outputs[0]

    def _constant(self, number: int) -> ir.Value:
        if number not in self._constants:
            name = fresh_name(self._graph, f"step_{number}")
            self._constants[number] = add_initializer(
                self._graph, name, np.array(number, np.float32)
            )
        return self._constants[number]

    def _store(self, node: ir.Node, array: np.ndarray) -> ir.Value:
        name = fresh_name(self._graph, f"{node.outputs[0].name}_float")
        value = add_initializer(self._graph, name, array.astype(np.float32))
        self._replace(node, value)
        return value

    def _replace(self, node: ir.Node, result: ir.Value) -> None:
        old = node.outputs[0]
        if old.is_graph_output():
            result.name, result.shape, result.type = old.name, old.shape, old.type
        old.replace_all_uses_with(result, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _quantized_type(node: ir.Node) -> ir.DataType:
    """Return the type of the zero point, else ``output_dtype``, else uint8, as ONNX has it."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None and zero.dtype is not None:
        return zero.dtype
    attribute = node.attributes.get("output_dtype")
    return ir.DataType(attribute.as_int() or ir.DataType.UINT8) if attribute else ir.DataType.UINT8


def _zero_point(node: ir.Node) -> np.ndarray:
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is None:
        return np.zeros((), np.float32)
    if zero.const_value is None:
        raise _unknown(node, "with a zero point that is no constant")
    return zero.const_value.numpy().astype(np.float32)


def _along_axis(node: ir.Node, x: ir.Value, scale: ir.Value) -> np.ndarray:
    if scale.const_value is None:
        raise _unknown(node, "with a scale that is no constant")
    return _reshaped(node, x, scale.const_value.numpy())


def _reshaped(node: ir.Node, x: ir.Value, parameter: np.ndarray) -> np.ndarray:
    """Return (C,) in the shape that meets ``x`` along the node's axis, one element as a scalar."""
    if parameter.size == 1:
        return parameter.reshape(())
    block = node.attributes.get("block_size")
    if parameter.ndim > 1 or (block is not None and block.as_int()):
        raise _unknown(node, "with a scale per block")
    assert x.const_value is not None
    rank = len(x.const_value.shape)
    default = -1 if node.op_type == "MatMulInteger" else 1
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else default
    shape = [1] * rank
    shape[axis] = -1
    return parameter.reshape(shape)


def _refuse_many(node: ir.Node, scale: ir.Value, zero: np.ndarray | None = None) -> None:
    """Refuse a scale or zero point per channel of an activation: no INT8 kernel takes one."""
    constant = scale.const_value
    if constant is None or constant.size != 1 or (zero is not None and zero.size != 1):
        raise _unknown(node, "of an activation with anything but one constant scale")


def _unknown(node: ir.Node, what: str) -> ExportError:
    return ExportError(
        f"{node.op_type} {node.name!r} cannot be simulated: {what}",
        fix="quantize with another --quantizer, or with its settings for INT8 per tensor",
    )
