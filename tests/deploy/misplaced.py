"""Encoders written node by node, in which Q/DQ is placed well or in one of many wrong ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Placing = Literal[
    "none", "both", "channels", "activation", "weight", "output", "bias", "unsigned",
    "unsigned-shifted",
]  # fmt: skip
"""How a linear layer carries Q/DQ: ``channels`` is one activation scale per channel, ``bias``
an INT32 bias behind DequantizeLinear, ``unsigned`` uint8 activations with zero point 0."""

LINEARS = ("query", "key", "value", "output", "up", "down")


@dataclass(frozen=True, slots=True)
class Encoder:
    """What to write; ``special`` linears, such as ``layer.0.up``, are placed in another way.

    Attributes:
        placing: Of every linear layer that is not special.
        attention: Whether the operands of both products in an attention carry Q/DQ.
        operator: Of the linear layers.
        weights: DequantizeLinear of INT8 weights, or both of float ones.
        zeros: Whether zero points are written where they are 0 and may be left out.
    """

    layers: int = 1
    width: int = 64
    heads: int = 2
    tokens: int = 16
    batch: int = 2
    placing: Placing = "both"
    special: Mapping[str, Placing] = field(default_factory=dict)
    attention: bool = False
    operator: Literal["MatMul", "Gemm"] = "MatMul"
    weights: Literal["dq", "qdq"] = "dq"
    zeros: bool = True
    half: bool = False
    static: bool = False
    opset: int = 19

    def placing_of(self, linear: str) -> Placing:
        """Return how a linear layer is placed."""
        return self.special.get(linear, self.placing)

    def macs(self) -> dict[str, int]:
        """Return the multiply-accumulates of each product at (batch, tokens), counted by hand."""
        rows, w = self.batch * self.tokens, self.width
        inner = self.batch * self.tokens * self.tokens * w
        found = {}
        for i in range(self.layers):
            linears = dict.fromkeys(LINEARS[:4], rows * w * w)
            linears |= dict.fromkeys(LINEARS[4:], rows * w * 2 * w)
            found |= {f"layer.{i}.{name}": macs for name, macs in linears.items()}
            found |= {f"layer.{i}.scores": inner, f"layer.{i}.context": inner}
        return found

    @property
    def shapes(self) -> str:
        """As ``--shapes`` takes it."""
        return f"x:{self.batch}x{self.tokens}x{self.width}"

    def write(self, path: Path) -> Path:
        """Write the file and return its path."""
        onnx.save(_Writing(self).model(), path)
        return path


class _Writing:
    """One graph under way."""

    def __init__(self, how: Encoder) -> None:
        self.how = how
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.draw = np.random.default_rng(7)
        self.float = np.dtype(np.float16 if how.half else np.float32)

    def model(self) -> onnx.ModelProto:
        how = self.how
        value = "x"
        for i in range(how.layers):
            value = self._layer(f"layer.{i}", value)
        self._node("Identity", [value], name="last", out="y")
        kind = helper.np_dtype_to_tensor_dtype(self.float)
        shape: list[int | str] = ["batch", "tokens", how.width]
        if how.static:
            shape = [how.batch, how.tokens, how.width]
        graph = helper.make_graph(
            self.nodes,
            "encoder",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("y", kind, shape)],
            [numpy_helper.from_array(a, n) for n, a in self.arrays.items()],
        )
        opsets = [helper.make_opsetid("", how.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _layer(self, name: str, x: str) -> str:
        how = self.how
        q, k, v = (self._linear(f"{name}.{part}", x, how.width) for part in LINEARS[:3])
        width = how.width // how.heads
        heads = self._constant(f"{name}.heads", np.array([0, -1, how.heads, width]))
        split = [self._node("Reshape", [part, heads]) for part in (q, k, v)]
        axes = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        q, k, v = (
            self._node("Transpose", [s], perm=perm) for s, perm in zip(split, axes, strict=True)
        )
        context = self._attention(name, q, k, v, width)
        merged = self._node("Transpose", [context], perm=[0, 2, 1, 3])
        flat = self._constant(f"{name}.flat", np.array([0, -1, how.width]))
        merged = self._node("Reshape", [merged, flat])
        x = self._norm(f"{name}.norm1", x, self._linear(f"{name}.output", merged, how.width))
        up = self._linear(f"{name}.up", x, 2 * how.width)
        down = self._linear(f"{name}.down", self._node("Relu", [up]), how.width)
        return self._norm(f"{name}.norm2", x, down)

    def _attention(self, name: str, q: str, k: str, v: str, width: int) -> str:
        def pair(value: str, part: str, scale: float) -> str:
            if not self.how.attention:
                return value
            return self._pair(f"{name}.{part}", value, np.asarray(scale), np.int8, 0)

        q, k, v = (pair(s, p, 0.03) for s, p in ((q, "q"), (k, "k"), (v, "v")))
        scores = self._node("MatMul", [q, k], name=f"{name}.scores")
        root = self._constant(f"{name}.root", np.asarray(width**-0.5, self.float))
        scaled = self._node("Mul", [scores, root])
        weights = pair(self._node("Softmax", [scaled], axis=-1), "p", 1 / 127)
        context = self._node("MatMul", [weights, v], name=f"{name}.context")
        return pair(context, "o", 0.03)

    def _norm(self, name: str, x: str, y: str) -> str:
        ones = self._constant(f"{name}.scale", np.ones(self.how.width, self.float))
        zeros = self._constant(f"{name}.shift", np.zeros(self.how.width, self.float))
        both = self._node("Add", [x, y])
        if self.how.opset >= 17:
            return self._node("LayerNormalization", [both, ones, zeros], name=name)
        return self._node("Mul", [both, ones])

    def _linear(self, name: str, x: str, columns: int) -> str:
        placing, rows = self.how.placing_of(name), self.how.width
        if name.endswith("down"):
            rows = 2 * self.how.width
        left = self._activation(name, x, rows, placing)
        right = self._weight(name, rows, columns, placing)
        if self.how.operator == "Gemm":
            flat = self._constant(f"{name}.rows", np.array([-1, rows]))
            left = self._node("Reshape", [left, flat])
        bias = self._bias(name, columns, placing)
        if self.how.operator == "Gemm":
            value = self._node("Gemm", [left, right, bias], name=name)
            shape = [self.how.batch, self.how.tokens] if self.how.static else [-1, self.how.tokens]
            whole = self._constant(f"{name}.whole", np.array([*shape, columns]))
            value = self._node("Reshape", [value, whole])
        else:
            value = self._node("MatMul", [left, right], name=name)
        if placing == "output":
            value = self._pair(f"{name}.y", value, np.asarray(0.05), np.int8, 0)
        return value if self.how.operator == "Gemm" else self._node("Add", [value, bias])

    def _activation(self, name: str, x: str, width: int, placing: Placing) -> str:
        if placing in ("none", "weight", "output"):
            return x
        kind: type[np.generic] = np.uint8 if placing.startswith("unsigned") else np.int8
        scale = np.asarray(0.03)
        if placing == "channels":
            return self._pair(name, x, np.linspace(0.02, 0.04, width), kind, 0, axis=2)
        return self._pair(name, x, scale, kind, 128 if placing == "unsigned-shifted" else 0)

    def _weight(self, name: str, rows: int, columns: int, placing: Placing) -> str:
        weight = self.draw.standard_normal((rows, columns)) / rows**0.5
        if placing in ("none", "activation", "output"):
            return self._constant(f"{name}.weight", weight.astype(self.float))
        scale = (np.abs(weight).max(axis=0) / 127).astype(self.float)
        integers = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
        if self.how.weights == "qdq":
            plain = self._constant(f"{name}.weight", weight.astype(self.float))
            return self._pair(f"{name}.w", plain, scale, np.int8, 0, axis=1)
        inputs = [
            self._constant(f"{name}.weight", integers),
            self._constant(f"{name}.weight_scale", scale),
        ]
        if self.how.zeros:
            inputs.append(self._constant(f"{name}.weight_zero", np.zeros(columns, np.int8)))
        return self._node("DequantizeLinear", inputs, axis=1)

    def _bias(self, name: str, columns: int, placing: Placing) -> str:
        if placing != "bias":
            bias = self.draw.standard_normal(columns).astype(self.float)
            return self._constant(f"{name}.bias", bias)
        integers = self.draw.integers(-900, 900, columns).astype(np.int32)
        scale = (0.03 * self.arrays[f"{name}.weight_scale"]).astype(self.float)
        inputs = [
            self._constant(f"{name}.bias", integers),
            self._constant(f"{name}.bias_scale", scale),
        ]
        return self._node("DequantizeLinear", inputs, axis=0)

    def _pair(
        self,
        name: str,
        x: str,
        scale: np.ndarray,
        kind: type[np.generic],
        zero: int,
        axis: int | None = None,
    ) -> str:
        parameters = [self._constant(f"{name}_scale", scale.astype(self.float))]
        default = kind is np.uint8 and not zero
        attributes = {} if axis is None else {"axis": axis}
        quantizing = dict(attributes)
        if self.how.zeros or not default:
            if self.how.opset >= 21 and not self.how.zeros:
                quantizing["output_dtype"] = TensorProto.INT8
            else:
                zeros = np.full(scale.shape, zero, kind)
                parameters.append(self._constant(f"{name}_zero", zeros))
        q = self._node("QuantizeLinear", [x, *parameters], name=f"{name}/q", **quantizing)
        return self._node("DequantizeLinear", [q, *parameters], name=f"{name}/dq", **attributes)

    def _constant(self, name: str, array: np.ndarray) -> str:
        self.arrays[name] = np.asarray(array)
        return name

    def _node(self, operator: str, inputs: list[str], name: str = "", out: str = "", **a: object) -> str:
        out = out or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [out], name=name, **a))
        return out
