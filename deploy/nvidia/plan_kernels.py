"""What a TensorRT-RTX plan executes, kernel by kernel; no GPU is needed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from deploy.kernels import Kernel, KernelKind
from deploy.nvidia.plan_text import PlanOperation

_GENERATED = "__myl_"
"""Begins the name of a kernel that lists its steps, four letters each."""

_MOVES = frozenset(["Cast", "Conc", "Move", "Repl", "Resh", "Slic", "Tran"])
_ROUNDS = _MOVES | {"Div", "Max", "Min", "Mul", "Roun"}


def kernels_of(operations: Sequence[PlanOperation], matmuls: Mapping[str, str]) -> list[Kernel]:
    """Return the kernels of a plan in order; a fused attention is one for both its matmuls.

    Args:
        operations: Of the plan.
        matmuls: As of :meth:`Engine.audit`.
    """
    seen: Counter[str] = Counter()
    found = []
    for operation in operations:
        seen[operation.name] += 1
        again = f"#{seen[operation.name]}" if seen[operation.name] > 1 else ""
        covered = operation.layers if operation.precision else []
        found.append(
            Kernel(
                f"{operation.name}{again}",
                _kind(operation),
                operation.precision,
                operation.name if operation.kind == "function" else operation.kind,
                tuple(name for name in covered if name in matmuls),
            )
        )
    return found


def _kind(operation: PlanOperation) -> KernelKind:
    if operation.kind == "corrltn":
        return "convolution"
    if operation.precision:
        return "attention" if operation.fused_attention else "matmul"
    if not operation.name.startswith(_GENERATED):
        return "other"
    steps = set(re.findall("[A-Z][a-z]+", operation.name.removeprefix(_GENERATED)))
    if steps & {"Mean", "Sqrt"}:
        return "normalization"
    if "Exp" in steps:
        return "softmax"
    if steps <= _MOVES:
        return "reformat"
    return "quantize" if "Roun" in steps and steps <= _ROUNDS else "pointwise"
