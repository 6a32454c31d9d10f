"""What ONNX Runtime executes, from the graph it optimized and from its profile."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx

from deploy.kernels import Kernel, KernelKind, KernelTimes
from deploy.layer_names import LayerNames, matmuls_by_kernel

_KINDS: dict[KernelKind, frozenset[str]] = {
    "matmul": frozenset(
        [
            "DynamicQuantizeMatMul", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulInteger",
            "MatMulIntegerToFloat", "MatMulNBits", "QGemm", "QLinearMatMul",
        ]
    ),
    "attention": frozenset(
        ["Attention", "GroupQueryAttention", "MultiHeadAttention", "QAttention"]
    ),
    "convolution": frozenset(
        ["Conv", "ConvInteger", "ConvTranspose", "FusedConv", "NhwcFusedConv", "QLinearConv"]
    ),
    "quantize": frozenset(["DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"]),
    "reformat": frozenset(
        ["Cast", "Concat", "Expand", "MemcpyFromHost", "MemcpyToHost", "ReorderInput",
         "ReorderOutput", "Transpose"]
    ),
    "softmax": frozenset(["LogSoftmax", "QLinearSoftmax", "Softmax"]),
    "normalization": frozenset(
        [
            "BatchNormalization", "EmbedLayerNormalization", "GroupNormalization",
            "InstanceNormalization", "LayerNormalization", "LpNormalization", "RMSNormalization",
            "SimplifiedLayerNormalization", "SkipLayerNormalization",
            "SkipSimplifiedLayerNormalization",
        ]
    ),
    "pointwise": frozenset(
        [
            "Add", "BiasGelu", "Clip", "Div", "Erf", "Exp", "FastGelu", "Gelu", "Max", "Min", "Mul",
            "Neg", "Pow", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QuickGelu", "Reciprocal",
            "Relu", "Sigmoid", "Sqrt", "Sub", "Tanh", "Where",
        ]
    ),
}  # fmt: skip
_KIND_OF = {operator: kind for kind, operators in _KINDS.items() for operator in operators}

_INT8 = frozenset(
    [
        "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat",
        "QAttention", "QGemm", "QLinearConv", "QLinearMatMul",
    ]
)  # fmt: skip
"""Multiply two INT8 operands."""

_FLOATS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64"}
_BYTES = {"float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "bool": 1, "int64": 8, "double": 8}
_FUSIONS = re.compile(r"(/MatMulScaleFusion/?|/MatMulAddFusion/?)+$")
_REWRITTEN = re.compile(r"^(FusedBack_)?(.*?)(_T)?$")
"""What becomes of a weight's name where its type or layout is changed."""

_TIMED = "_kernel_time"
_RUN = "model_run"

Shape = tuple[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Executed:
    """What the profile says of one node: its operands and results, by type and shape."""

    reads: Sequence[Shape]
    writes: Sequence[Shape]

    @property
    def bytes(self) -> int:
        """That it reads and writes."""
        return sum(prod(shape) * _BYTES.get(kind, 4) for kind, shape in (*self.reads, *self.writes))


def kernels_of(
    path: Path, matmuls: Mapping[str, str], executed: Mapping[str, Executed]
) -> list[Kernel]:
    """Return what an optimized graph executes, in the order of its nodes.

    Args:
        path: An optimized graph.
        matmuls: As of :meth:`Engine.audit`.
        executed: What a profile says of its nodes; empty where nothing ran.
    """
    nodes = list(onnx.load(str(path), load_external_data=False).graph.node)
    multiplying = LayerNames()
    for index, node in enumerate(nodes):
        if _KIND_OF.get(node.op_type) in ("matmul", "attention", "convolution"):
            weights = [_REWRITTEN.sub(r"\2", name) for name in node.input]
            multiplying.add(index, [_FUSIONS.sub("", node.name), *node.output], weights)
    covered = matmuls_by_kernel([multiplying], matmuls)
    names = [node.name or f"{node.op_type}_{index}" for index, node in enumerate(nodes)]
    return [
        _kernel(node, name, covered.get(index, ()), executed.get(name))
        for index, (node, name) in enumerate(zip(nodes, names, strict=True))
    ]


def _kernel(
    node: onnx.NodeProto, name: str, matmuls: tuple[str, ...], executed: Executed | None
) -> Kernel:
    kind: KernelKind = _KIND_OF.get(node.op_type, "other")
    multiplies = kind in ("matmul", "attention", "convolution")
    moves = kind in ("quantize", "reformat") and executed is not None
    return Kernel(
        name=name,
        kind=kind,
        precision=_precision(node.op_type, executed) if multiplies else "",
        implementation=node.op_type,
        matmuls=matmuls,
        bytes=executed.bytes if moves and executed is not None else None,
        operator=node.op_type,
    )


def _precision(operator: str, executed: Executed | None) -> str:
    if operator in _INT8:
        return "int8"
    types = [_FLOATS[kind] for kind, _ in (executed.reads if executed else ()) if kind in _FLOATS]
    return types[0] if types else "fp32"


def executed_of(profile: Path) -> dict[str, Executed]:
    """Return what each node took and gave in the last run, by node name."""
    return {
        event["name"].removesuffix(_TIMED): Executed(
            _shapes(event["args"]["input_type_shape"]), _shapes(event["args"]["output_type_shape"])
        )
        for event in _events(profile)
        if event["name"].endswith(_TIMED)
    }


def times_of(profile: Path) -> dict[str, float]:
    """Return nanoseconds per run by node name.

    Raises:
        RunError: If nothing ran.
    """
    times = KernelTimes()
    run: dict[str, float] = {}
    for event in _events(profile):
        name = event["name"]
        if name.endswith(_TIMED):
            node = name.removesuffix(_TIMED)
            run[node] = run.get(node, 0.0) + event["dur"] * 1e3
        elif name == _RUN:
            times.add_run(run)
            run = {}
    return times.per_run()


def _events(profile: Path) -> Iterator[dict[str, Any]]:
    yield from json.loads(profile.read_text("utf-8"))


def _shapes(told: Sequence[Mapping[str, Sequence[int]]]) -> list[Shape]:
    return [(kind, shape) for entry in told for kind, shape in entry.items()]
