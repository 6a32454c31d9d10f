"""Which matmuls get Q/DQ, and for each that does not: why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from export.matmuls import MatMul
from trueint8.errors import ConfigError
from trueint8.registry import did_you_mean

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

    def carried_to(self, matmuls: Sequence[MatMul], reasons: Mapping[str, str]) -> Placement:
        """Return the same decisions for a rewritten graph.

        Args:
            matmuls: Of that graph.
            reasons: For those that are new in it.
        """
        known = {s.matmul.name: s.reason for s in self.sites} | dict(reasons)
        return Placement([Site(m, known[m.name]) for m in matmuls])


def place_qdq(
    matmuls: Sequence[MatMul],
    *,
    quantize_head: bool,
    keep_float: Sequence[str] = (),
    int8_only: Sequence[str] = (),
) -> Placement:
    """Decide for INT8 on the inputs of every matmul with weights.

    Args:
        matmuls: Of one graph.
        quantize_head: Whether the language-model head is quantized too.
        keep_float: Shell patterns; matmuls whose name matches one stay in float.
        int8_only: Shell patterns; if any is given, all other matmuls stay in float.

    Raises:
        ConfigError: If a pattern matches the name of no matmul with weights.
    """
    names = [m.name for m in matmuls if m.weight is not None]
    for pattern in (*keep_float, *int8_only):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"no matmul with weights matches {pattern!r}",
                fix=f"{did_you_mean(pattern, names)}`deploy inspect` lists the names; "
                "* stands for any characters",
            )

    def reason(matmul: MatMul) -> str:
        if matmul.weight is None:
            return ATTENTION_REASON
        if matmul.obstacle:
            return matmul.obstacle
        for pattern in keep_float:
            if fnmatchcase(matmul.name, pattern):
                return f"kept in float by --keep-float {pattern}"
        if int8_only and not any(fnmatchcase(matmul.name, p) for p in int8_only):
            return f"outside --int8-only {' '.join(int8_only)}"
        if matmul.is_head and not quantize_head and not int8_only:
            return HEAD_REASON
        return ""

    return Placement([Site(m, reason(m)) for m in matmuls])
