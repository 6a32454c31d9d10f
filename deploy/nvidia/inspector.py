"""The kernels of an engine, from the JSON of TensorRT's engine inspector.

TensorRT 10 tells a tensor's type in ``Format/Datatype``, such as ``Thirty-two wide channel
vectorized row major Int8 format``; TensorRT 11 in a key of its own, spelt ``Datatype`` or
``DataType``. Layers of a Myelin region have generated names, such as
``__myl_FcAddMulErf_myl0_3``, in which each operation is a syllable.

A matmul is INT8 only if both things it multiplies are: two inputs, or one input and the weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from deploy.kernels import Kernel, KernelKind

_TYPES = {
    "int8": "int8", "half": "fp16", "fp16": "fp16", "float16": "fp16", "bf16": "bf16",
    "bfloat16": "bf16", "float": "fp32", "fp32": "fp32", "float32": "fp32", "fp8": "fp8",
}  # fmt: skip
_WIDTHS = {"int8": 1, "fp8": 1, "fp16": 2, "bf16": 2, "fp32": 4}
_TYPE_KEYS = ("Datatype", "DataType", "Format/Datatype")
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]\x1e\x1f]+)\]")

_KINDS: tuple[tuple[KernelKind, re.Pattern[str]], ...] = (
    ("attention", re.compile(r"_mha|multi.?head|attention", re.IGNORECASE)),
    ("convolution", re.compile(r"conv", re.IGNORECASE)),
    ("matmul", re.compile(r"(?i:gemm|mat(rix)?.?mul|fully.?connected)|Fc[A-Z_]")),
    ("softmax", re.compile(r"softm", re.IGNORECASE)),
    ("normalization", re.compile(r"normali[sz]ation|layer.?norm|MeanSub", re.IGNORECASE)),
    ("quantize", re.compile(r"quantize|^scale$", re.IGNORECASE)),
    ("reformat", re.compile(r"reformat|noop|shuffle|copy|__myl_(Mov|Tran|Resh|Cast)+_", re.I)),
    ("pointwise", re.compile(r"point.?wise|elementwise|activation|unary|kgen", re.IGNORECASE)),
)
_MULTIPLIES = ("matmul", "attention", "convolution")
_ATTENTION_OPERANDS = 3


def engine_kernels(text: str, matmuls: Collection[str]) -> list[Kernel]:
    """Return what an engine executes, in its order.

    Args:
        text: What ``get_engine_information`` gives in JSON, of an engine that was built with
            detailed profiling verbosity.
        matmuls: Names of those of the float graph.
    """
    return [_kernel(layer, matmuls) for layer in json.loads(text)["Layers"]]


def _kernel(layer: Mapping[str, Any] | str, matmuls: Collection[str]) -> Kernel:
    if isinstance(layer, str):  # without detailed verbosity there are only names
        return Kernel(layer, "other")
    name = str(layer["Name"])
    kind = _kind(layer)
    told = _ONNX_LAYER.findall(str(layer.get("Metadata", ""))) or name.split(" + ")
    moves = kind in ("quantize", "reformat")
    return Kernel(
        name,
        kind,
        _precision(layer, kind) if kind in _MULTIPLIES else "",
        str(layer.get("TacticName") or layer.get("LayerType", "")),
        tuple(dict.fromkeys(part for part in told if part in matmuls)),
        _moved_bytes(layer) if moves else None,
    )


def _kind(layer: Mapping[str, Any]) -> KernelKind:
    """Return the first kind that any of the layer's words speaks of, most telling words first."""
    words = ("ParameterType", "LayerType", "Name", "TacticName")
    for text in (str(layer.get(key, "")) for key in words):
        if text.lower() in ("kgen", "fusion", "myelin", ""):
            continue
        for kind, pattern in _KINDS:
            if pattern.search(text):
                return kind
    return "pointwise" if layer.get("LayerType") == "kgen" else "other"


def _precision(layer: Mapping[str, Any], kind: KernelKind) -> str:
    """Return the type of what is multiplied: ``int8`` only if all of it is."""
    operands = [t for t in (_type_of(i) for i in layer.get("Inputs", ())) if t]
    weights = layer.get("Weights")
    if kind == "attention":
        operands = operands[:_ATTENTION_OPERANDS]
    elif isinstance(weights, Mapping) and weights.get("Type"):
        operands = [*operands[:1], _name_of(str(weights["Type"]))]
    else:
        operands = operands[:2]
    if len(operands) < 2:  # a constant operand that is told nowhere: never call that INT8
        return next((t for t in operands if t != "int8"), "")
    return next((t for t in operands if t != "int8"), "int8")


def _type_of(tensor: Mapping[str, Any]) -> str:
    """Return a tensor's type; "" for indices, masks and what is not told."""
    return next((_name_of(str(tensor[key])) for key in _TYPE_KEYS if tensor.get(key)), "")


def _name_of(text: str) -> str:
    """Return our name for a type that stands somewhere in a text."""
    found = [_TYPES[w] for w in re.findall(r"[a-z]+\d*", text.lower()) if w in _TYPES]
    return found[-1] if found else ""


def _moved_bytes(layer: Mapping[str, Any]) -> int | None:
    """Return bytes read and written; None where a shape is dynamic or a type is not told."""
    total = 0
    for tensor in (*layer.get("Inputs", ()), *layer.get("Outputs", ())):
        width = _WIDTHS.get(_type_of(tensor))
        count = 1
        for axis in tensor.get("Dimensions", (-1,)):
            count *= axis
            if axis < 0:
                return None
        if width is None:
            return None
        total += count * width
    return total
