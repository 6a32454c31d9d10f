"""Which matmuls get Q/DQ, and for each that does not: why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from export.matmuls import MatMul

HEAD_REASON = "language-model head, kept in float (--quantize-head quantizes it)"
ATTENTION_REASON = "both operands are activations; only matmuls with weights are quantized"


@dataclass(frozen=True, slots=True)
class Site:
    """One matmul and the decision about it; ``reason`` is empty where it is quantized."""

    matmul: MatMul
    reason: str

    @property
    def quantized(self) -> bool:
        """Whether the matmul gets Q/DQ on both inputs."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class Placement:
    """The decision for every matmul of a graph, in topological order."""

    sites: list[Site]

    @property
    def quantized(self) -> list[MatMul]:
        """The matmuls that get Q/DQ."""
        return [s.matmul for s in self.sites if s.quantized]

    @property
    def tensors(self) -> list[str]:
        """The activations to calibrate, each once."""
        return list(dict.fromkeys(m.activation for m in self.quantized))


def place_qdq(matmuls: Sequence[MatMul], *, quantize_head: bool) -> Placement:
    """Decide for INT8 on the inputs of every matmul with weights."""

    def reason(matmul: MatMul) -> str:
        if matmul.weight is None:
            return ATTENTION_REASON
        if matmul.obstacle:
            return matmul.obstacle
        if matmul.is_head and not quantize_head:
            return HEAD_REASON
        return ""

    return Placement([Site(m, reason(m)) for m in matmuls])
