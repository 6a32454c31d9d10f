"""What OpenVINO's compiled model executes, from its runtime model and its counters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from deploy.kernels import Kernel, KernelKind, check_timed
from deploy.layer_names import LayerNames, matmuls_by_kernel

_NAME_OF = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
_BITS = {"f32": 32, "i32": 32, "bf16": 16, "f16": 16, "i8": 8, "u8": 8, "i64": 64}
_NOT_EXECUTED = ("Const", "Input", "Output")
_FUSED = "Subgraph"

_KINDS: dict[str, KernelKind] = {
    "FullyConnected": "matmul",
    "MatMul": "matmul",
    "Convolution": "convolution",
    "GroupConvolution": "convolution",
    "Deconvolution": "convolution",
    "MHA": "attention",
    "ScaledDotProductAttention": "attention",
    "ScaledDotProductAttentionWithKVCache": "attention",
    "FakeQuantize": "quantize",
    "Broadcast": "reformat",
    "Convert": "reformat",
    "Reorder": "reformat",
    "Transpose": "reformat",
    "SoftMax": "softmax",
    "MVN": "normalization",
    "NormalizeL2": "normalization",
    "RMS": "normalization",
    "Eltwise": "pointwise",
    "Math": "pointwise",
    _FUSED: "pointwise",
}
_INSERTED = re.compile(r"(?<![\w/.])([A-Z][A-Za-z]*)(?:_\d+)+(?=_|$)")
_HALF_A_TICK_NS = 500.0
_MULTIPLY = ("matmul", "convolution")


@dataclass(frozen=True, slots=True)
class _Layer:
    op: Any
    info: Mapping[str, str]

    @property
    def name(self) -> str:
        """What this compilation calls it."""
        return str(self.op.get_friendly_name())

    @property
    def kind(self) -> KernelKind:
        names = self.names
        if names and all(n.endswith("/DequantizeLinear") for n in names):
            return "quantize"
        return _KINDS.get(self.info["layerType"], "other")

    @property
    def names(self) -> list[str]:
        """Those of the layers in it before fusion."""
        return [name for name in self.info["originalLayersNames"].split(",") if name]

    @property
    def precision(self) -> str:
        """Its own word, but for INT8 with one operand in float, which it also calls INT8."""
        told = _precision(self.info["runtimePrecision"])
        if told != "int8" or self.kind not in _MULTIPLY:
            return told
        operands = [_type_of(self.op.input_value(index)) for index in (0, 1)]
        return next((_precision(t) for t in operands if _precision(t) != "int8"), told)

    @property
    def bytes(self) -> int | None:
        """What it reads and writes; None where a shape is not known."""
        values = [v for v in map(self.op.input_value, range(self.op.get_input_size()))
                  if _info(v.get_node())["layerType"] != "Const"]  # fmt: skip
        sizes = [_bytes(v) for v in (*values, *self.op.outputs())]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None


def kernels_of(runtime_model: Any, matmuls: Mapping[str, str]) -> list[Kernel]:
    """Return what a compiled model executes, in its order.

    Attention that was fused into one subgraph reports the subgraph's precision; a layer that
    gives a graph output is called after that output.

    Args:
        runtime_model: After an inference it knows every shape.
        matmuls: As of :meth:`Engine.audit`.
    """
    layers = _executed_layers(runtime_model)
    multiplying, fused = LayerNames(), LayerNames()
    for index, layer in enumerate(layers):
        if layer.kind in _MULTIPLY:
            multiplying.add(index, layer.names, [_weight_name(layer.op)])
        elif layer.kind == "attention" or layer.info["layerType"] == _FUSED:
            fused.add(index, layer.names)
    covered = matmuls_by_kernel((multiplying, fused), matmuls)
    names = _lasting_names(layers)
    return [
        _kernel(layer, names[layer.name], covered.get(index, ()))
        for index, layer in enumerate(layers)
    ]


def _lasting_names(layers: Sequence[_Layer]) -> dict[str, str]:
    """Return what layers are called here, by what this compilation calls them.

    What OpenVINO inserts is called ``Convert_5577``, by a count that goes on through the life
    of the process; here it is ``Convert#1`` in every compilation of one graph, and a reorder
    behind it, which bears its name, ``Convert_f32_bf16_layer#1``.
    """
    count: Counter[str] = Counter()
    found = {}
    for layer in layers:
        lasting, inserted = _INSERTED.subn(r"\1", layer.name)
        count[lasting] += 1
        found[layer.name] = f"{lasting}#{count[lasting]}" if inserted else lasting
    return found


def _kernel(layer: _Layer, name: str, matmuls: tuple[str, ...]) -> Kernel:
    kind = layer.kind
    if matmuls and kind == "pointwise":
        kind = "attention"
    multiplies = kind in (*_MULTIPLY, "attention")
    return Kernel(
        name=name,
        kind=kind,
        precision=layer.precision if multiplies else "",
        implementation=layer.info["primitiveType"],
        matmuls=matmuls,
        bytes=layer.bytes if kind in ("quantize", "reformat") else None,
        operator=layer.info["layerType"],
    )


def _executed_layers(runtime_model: Any) -> list[_Layer]:
    """Return the layers that depend on an input: the others were computed once."""
    found = []
    constant: set[str] = set()
    for op in runtime_model.get_ordered_ops():
        info = _info(op)
        sources = [op.input_value(i).get_node() for i in range(op.get_input_size())]
        if info["layerType"] == "Const" or (
            sources and all(s.get_friendly_name() in constant for s in sources)
        ):
            constant.add(op.get_friendly_name())
        elif info["layerType"] not in _NOT_EXECUTED:
            found.append(_Layer(op, info))
    return found


class AveragedTimes:
    """Nanoseconds per layer of all runs but the first, a warm-up, unless it is alone.

    What OpenVINO calls a layer's time is its average over every run since the model was
    compiled. It is read after the first run and at the end, and never between runs, where
    reading would empty the caches that the next run finds. It is cut to whole microseconds,
    which takes half of one on average; that is given back.
    """

    def __init__(self) -> None:
        self._first: Mapping[str, float] = {}
        self._request: Any = None
        self._runs = 0

    def add_run(self, request: Any) -> None:
        """Note that a request ran; it is the same one each time."""
        self._request = request
        self._runs += 1
        if self._runs == 1:
            self._first = _averages(request)

    def per_run(self, runtime_model: Any) -> dict[str, float]:
        """Return the mean, by :attr:`Kernel.name`.

        Raises:
            RunError: If nothing ran.
        """
        check_timed(self._runs)
        names = _lasting_names(_executed_layers(runtime_model))
        counted = max(self._runs - 1, 1)
        less = self._first if self._runs > 1 else {}
        return {
            names[layer]: max(average * self._runs - less.get(layer, 0.0), 0.0) / counted
            for layer, average in _averages(self._request).items()
        }


def _averages(request: Any) -> dict[str, float]:
    return {
        layer.node_name: layer.real_time.total_seconds() * 1e9 + _HALF_A_TICK_NS
        for layer in request.profiling_info
        if layer.status == layer.Status.EXECUTED
    }


def _info(op: Any) -> dict[str, str]:
    return {key: str(value.value) for key, value in op.get_rt_info().items()}


def _precision(name: str) -> str:
    return _NAME_OF.get(name, name)


def _type_of(output: Any) -> str:
    types = _info(output.get_node())["outputPrecisions"].split(",")
    return types[output.get_index() if output.get_index() < len(types) else 0]


def _bytes(output: Any) -> int | None:
    shape, bits = output.get_partial_shape(), _BITS.get(_type_of(output))
    if bits is None or not shape.is_static:
        return None
    return prod(int(d.get_length()) for d in shape) * bits // 8


def _weight_name(op: Any) -> str:
    """Return the name of the constant behind a layer's second input, or "" if there is none.

    A layer whose bias is zero or absent can lose its own name to a multiplication after it.
    """
    if op.get_input_size() < 2:
        return ""
    node = op.input_value(1).get_node()
    while node.get_type_name() and node.get_input_size() > 0:
        node = node.input_value(0).get_node()
    return str(node.get_friendly_name())
