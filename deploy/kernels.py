"""What an engine executes, as the engine itself tells it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trueint8.errors import RunError

KernelKind = Literal[
    "matmul", "attention", "convolution", "quantize", "reformat", "softmax", "normalization",
    "pointwise", "other",
]  # fmt: skip

NOT_FOUND = "not found"
"""What is said of a matmul that no kernel names."""

FUSED = "fused"
"""What is said of a float matmul inside a kernel that the engine calls INT8."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One thing an engine executes.

    Attributes:
        name: Unique within the engine; what profiles call it.
        kind: What it does; ``quantize`` is Q/DQ on its own, ``reformat`` moves or casts data.
        precision: Of what it multiplies: ``int8`` only if both operands are, else a float
            precision; "" where it multiplies nothing.
        implementation: The engine's word for its code, such as ``brgemm_avx512_vnni``.
        matmuls: Those of the float graph that it executes, by name.
        bytes: That a ``quantize`` or ``reformat`` reads and writes, where the engine knows.
        operator: The engine's word for what it does, such as ``Transpose``, where it has one.
    """

    name: str
    kind: KernelKind
    precision: str = ""
    implementation: str = ""
    matmuls: tuple[str, ...] = ()
    bytes: int | None = None
    operator: str = ""


class KernelTimes:
    """Nanoseconds by kernel, added up over runs; the first, a warm-up, only if it is alone."""

    def __init__(self) -> None:
        self._total: dict[str, float] = defaultdict(float)
        self._runs = 0

    def add_run(self, times: Mapping[str, float]) -> None:
        """Add those of one run."""
        if self._runs == 1:
            self._total.clear()
        self._runs += 1
        for name, time in times.items():
            self._total[name] += time

    def per_run(self) -> dict[str, float]:
        """Return the mean over runs.

        Raises:
            RunError: If nothing was added.
        """
        check_timed(self._runs)
        counted = max(self._runs - 1, 1)
        return {name: total / counted for name, total in self._total.items()}


def check_timed(runs: int) -> None:
    """Refuse to tell times where nothing was timed.

    Raises:
        RunError: If no profiled run was counted.
    """
    if not runs:
        raise RunError(
            "no kernel was timed",
            fix="open the session with Running(profiled=True) and run it first",
        )


def fused_attentions(kernels: Sequence[Kernel], attentions: Collection[Sequence[str]]) -> int:
    """Return how many attentions, given as their matmuls, one kernel executes whole."""
    whole = [set(k.matmuls) for k in kernels if k.kind != "matmul"]
    return sum(any(set(names) <= held for held in whole) for names in attentions)


def executed_precisions(
    kernels: Sequence[Kernel], matmuls: Mapping[str, str], floats: Collection[str] = ()
) -> dict[str, str]:
    """Return the precision each matmul executes in, by the engine's own word.

    A matmul that the graph leaves in float has no two INT8 operands. Where the engine calls the
    kernel that took it in INT8, the kernel does more than this matmul, and it is :data:`FUSED`.

    Args:
        kernels: From the audit.
        matmuls: As of the audit.
        floats: Names of those that the Q/DQ graph leaves in float.
    """
    told = {m: kernel.precision for kernel in kernels for m in kernel.matmuls}
    found = {name: told.get(name, NOT_FOUND) for name in matmuls}
    return {n: FUSED if p == "int8" and n in floats else p for n, p in found.items()}
