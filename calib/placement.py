"""Which tensors get Q/DQ for which engine, and for each matmul that does not: why.

Matmuls with weights: the activation and the weight. An attention: Q, K, V, the weights
P with scale 1/127, and the output, before anything but a change of layout happens to it;
that is what TensorRT needs for one INT8 kernel. Where an engine would not fuse it, INT8
attention is two loose matmuls around a softmax and slower than a fused float kernel, so
``auto`` leaves it in float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from trueint8.errors import ConfigError
from trueint8.registry import did_you_mean

if TYPE_CHECKING:  # whoever only runs an engine needs Rules and no library of graphs
    from export.attentions import Attention
    from export.matmuls import MatMul

HEAD_REASON = "language-model head, kept in float (--quantize-head quantizes it)"
ATTENTION_REASON = "both operands are activations, and they belong to no attention known here"
CHOSEN_REASON = "kept in float by --attention float"
UNFUSED_REASON = "this engine gains nothing from INT8 attention (--attention int8 quantizes it)"
CLIPPED_REASON = "clipped softmax is fused in INT8 with static shapes only"
SINGLE_REASON = "INT8 attention of a single head is not fused"
SHARED_REASON = "not fused: its scores or weights are read by something else as well"

Mode = Literal["auto", "int8", "float"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What one engine makes of a Q/DQ graph; engines with equal rules share one.

    Attributes:
        head_widths: Widths of the heads that it fuses in INT8; none if it fuses none.
        clipped_widths: The same for clipped softmax, with static shapes.
        longest: Most tokens of such an attention.
        rest: Type of what is not INT8 in the graph, for engines that take types as they stand;
            None for those that choose by themselves.
    """

    head_widths: tuple[int, ...] = ()
    clipped_widths: tuple[int, ...] = ()
    longest: int = 0
    rest: Literal["fp32", "fp16"] | None = None


@dataclass(frozen=True, slots=True)
class Extent:
    """What is known of a graph's shapes.

    Attributes:
        operands: Shape of each matmul's operands, by name, for one sequence.
        longest: Most tokens the engine is built for, 0 where no input counts tokens.
        static: Whether no axis of any input is dynamic.
    """

    operands: Mapping[str, tuple[int, ...]]
    longest: int
    static: bool


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
    """The decision for every matmul of a graph, in topological order.

    ``attentions`` are those that are quantized; their matmuls are among the sites.
    """

    sites: list[Site]
    attentions: list[Attention] = field(default_factory=list)

    @property
    def quantized(self) -> list[MatMul]:
        """The matmuls with weights that get Q/DQ."""
        return [s.matmul for s in self.sites if s.quantized and s.matmul.weight is not None]

    @property
    def outputs(self) -> list[str]:
        """Attention outputs that need Q/DQ of their own: no quantized matmul reads them as is.

        Such as one that a gate multiplies, or one behind which the projection is float.
        Clipped attention computes in FP32 up to its output, so its Q/DQ is its own as well.
        """
        read = {m.activation for m in self.quantized}
        alone = [a for a in self.attentions if a.clipped or not read.intersection(a.outputs)]
        return [a.outputs[0] for a in alone]

    @property
    def tensors(self) -> list[str]:
        """The activations to calibrate, each once; P has a fixed scale and is not among them."""
        names = [m.activation for m in self.quantized]
        names += [n for a in self.attentions for n in (a.query, a.key, a.value)]
        return list(dict.fromkeys([*names, *self.outputs]))

    @property
    def token_axes(self) -> dict[str, int]:
        """The axis of tokens in each tensor of an attention, for leaving out padding."""
        axes = {a.key: -1 for a in self.attentions}
        behind = [n for a in self.attentions for n in (a.query, a.value, a.outputs[0])]
        return axes | dict.fromkeys(behind, -2)

    def carried_to(self, matmuls: Sequence[MatMul], reasons: Mapping[str, str]) -> Placement:
        """Return the same decisions for a rewritten graph.

        Args:
            matmuls: Of that graph.
            reasons: For those that are new in it.
        """
        known = {s.matmul.name: s.reason for s in self.sites} | dict(reasons)
        return Placement([Site(m, known[m.name]) for m in matmuls], self.attentions)


def judge_attentions(
    attentions: Sequence[Attention], rules: Rules, extent: Extent, mode: Mode = "auto"
) -> dict[Attention, str]:
    """Decide for INT8 on each attention of a graph.

    Args:
        attentions: Of one graph.
        rules: Of the engine.
        extent: Shapes of the graph.
        mode: ``auto`` quantizes what the engine fuses, ``int8`` all that can be quantized.

    Returns:
        Why each stays in float; "" where it is quantized.
    """
    return {a: _attention_reason(a, rules, extent, mode) for a in attentions}


def _attention_reason(attention: Attention, rules: Rules, extent: Extent, mode: Mode) -> str:
    if mode == "float":
        return CHOSEN_REASON
    if attention.obstacle or mode == "int8":
        return attention.obstacle
    if not rules.head_widths:
        return UNFUSED_REASON
    if attention.shared:
        return SHARED_REASON
    if attention.clipped and not extent.static:
        return CLIPPED_REASON
    names = (attention.query, attention.key, attention.value)
    query, key, value = (extent.operands[name] for name in names)
    if query[-3:-2] == (1,):
        return SINGLE_REASON
    widths = rules.clipped_widths if attention.clipped else rules.head_widths
    width, tokens = max(query[-1], value[-1]), max(extent.longest, key[-1])
    if width not in widths:
        known = ", ".join(map(str, widths))
        return f"INT8 attention is fused for heads of {known}; these are {width} wide"
    if tokens > rules.longest:
        return f"INT8 attention is fused up to {rules.longest} tokens; here are {tokens}"
    return ""


def place_qdq(
    matmuls: Sequence[MatMul],
    *,
    quantize_head: bool,
    keep_float: Sequence[str] = (),
    int8_only: Sequence[str] = (),
    attentions: Mapping[Attention, str] | None = None,
) -> Placement:
    """Decide for INT8 on the inputs of every matmul.

    Args:
        matmuls: Of one graph.
        quantize_head: Whether the language-model head is quantized too.
        keep_float: Shell patterns; matmuls whose name matches one stay in float.
        int8_only: Shell patterns; if any is given, all other matmuls stay in float.
        attentions: As :func:`judge_attentions` returns; both matmuls share a decision.

    Raises:
        ConfigError: If a pattern matches the name of no matmul that could be quantized.
    """
    judged = {name: (a, why) for a, why in (attentions or {}).items() for name in a.matmuls}
    names = [m.name for m in matmuls if m.weight is not None or m.name in judged]
    _refuse_unmatched([*keep_float, *int8_only], names)

    def reason(matmul: MatMul) -> str:
        if matmul.name in judged:
            attention, why = judged[matmul.name]
            return why or _told(attention.matmuls, keep_float, int8_only)
        if matmul.weight is None:
            return ATTENTION_REASON
        kept = matmul.is_head and not quantize_head and not int8_only
        told = _told([matmul.name], keep_float, int8_only)
        return matmul.obstacle or told or (HEAD_REASON if kept else "")

    sites = [Site(m, reason(m)) for m in matmuls]
    quantized = {s.matmul.name for s in sites if s.quantized}
    return Placement(sites, [a for a in attentions or {} if quantized.issuperset(a.matmuls)])


def _refuse_unmatched(patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"no matmul that can be quantized matches {pattern!r}",
                fix=f"{did_you_mean(pattern, names)}`deploy inspect` lists the names; "
                "* stands for any characters",
            )


def _told(names: Sequence[str], keep_float: Sequence[str], int8_only: Sequence[str]) -> str:
    """Return which of the user's patterns keeps matmuls in float that are decided together."""
    for pattern in keep_float:
        if any(fnmatchcase(name, pattern) for name in names):
            return f"kept in float by --keep-float {pattern}"
    if int8_only and not any(fnmatchcase(n, p) for n in names for p in int8_only):
        return f"outside --int8-only {' '.join(int8_only)}"
    return ""
