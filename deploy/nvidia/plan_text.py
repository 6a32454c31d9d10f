"""The kernels of a TensorRT-RTX plan, read from the text inside it; no GPU is needed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trueint8.errors import RunError

_TYPE_NAMES = {"float": "fp32", "half": "fp16", "bfloat16": "bf16", "int8": "int8"}
_GEMM_OPERATIONS = ("fully_connected", "runtime_fusion", "corrltn")
_ATTENTION = "_gemm_mha"
_ATTENTION_OPERANDS = 3
"""Q, K and V; a mask is a fourth, and always float."""

_CAST_FIRST = re.compile(r"__myl_(?:(?!Fc).)*(?<!Roun)Cast.*Fc")
"""A fusion that casts an operand, other than to INT8, before it multiplies."""


@dataclass(frozen=True, slots=True)
class PlanOperation:
    """One kernel of a plan: its operation, name, operand types, and the ONNX nodes in it.

    Index and mask operands (int64, bool) are left out of ``operands``.
    """

    kind: str
    name: str
    operands: list[str]
    layers: list[str]

    @property
    def fused_attention(self) -> bool:
        """Whether it is a whole attention."""
        return self.name.startswith(_ATTENTION)

    @property
    def precision(self) -> str:
        """``int8`` if all that is multiplied is INT8, else the float type; "" for no matmul."""
        if self.fused_attention:
            whole = self.operands.count("int8") == _ATTENTION_OPERANDS
            return "int8" if whole else _widest(self.operands)
        if self.kind not in _GEMM_OPERATIONS or len(self.operands) < 2:
            return ""
        cast = self.kind == "runtime_fusion" and _CAST_FIRST.match(self.name)
        return _widest(self.operands if cast else self.operands[:2])


def _widest(types: list[str]) -> str:
    """Return the first type that is not INT8, or ``int8``."""
    return next((_TYPE_NAMES.get(t, t) for t in types if t != "int8"), "int8")


def plan_operations(plan: bytes) -> list[PlanOperation]:
    """Return the kernels of a plan in order.

    The format is undocumented; checked with TensorRT-RTX 1.7.

    Raises:
        RunError: If no kernel is listed in it: it is no such plan.
    """
    text = plan.decode("latin1")
    types = {}
    for match in re.finditer(r'(?:sub_)?tensor=\{([^\n]*?)\bname="([^"]+)"([^\n]*)\}', text):
        declared = re.search(r"\btype=(\w+)", match[3])
        types[match[2]] = declared[1] if declared else "?"
    start = text.find("\nmain {")
    if start < 0:
        raise RunError(
            "the plan lists no kernels that TensorRT-RTX 1.7 would",
            fix="build the bundle again with the version that is installed here",
        )
    main = text[start : text.find("\nshape_main", start)]
    operations = []
    for match in re.finditer(r'\n  ([a-z_0-9]+)=\{ name=("?)([^\s"]+)\2([^\n]*)', main):
        arguments = re.search(r"\binput(?:_args)?=\{([^}]*)\}", match[4])
        names = re.findall(r'"([^"]+)"', arguments[1]) if arguments else []
        operands = [t for t in (types.get(n, "?") for n in names) if t not in ("int64", "bool")]
        layers = re.findall(r"\[ONNX Layer: ([^\]\x1e\x1f]+)\]", match[4])
        operations.append(PlanOperation(match[1], match[3], operands, layers))
    return operations
