"""What torch executed, from the events of its own profiler.

A kernel belongs to the module whose weights are among its operands: the profiler gives every
operand's storage. Its precision is the type of both operands.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from deploy.kernels import Kernel, KernelKind
from deploy.modules.parameters import names_of_parts

_OPERANDS = {
    "aten::mm": (0, 1), "aten::_int_mm": (0, 1), "aten::bmm": (0, 1),
    "aten::addmm": (1, 2), "aten::baddbmm": (1, 2), "aten::mkldnn_linear": (0, 1),
    "mkldnn::_linear_pointwise": (0, 1), "aten::convolution": (0, 1),
}  # fmt: skip
_ATTENTION = "aten::_scaled_dot_product"
_OPERATORS = ("aten::", "mkldnn::", "onednn::")
_PRECISION = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16",
    torch.int8: "int8", torch.uint8: "int8",
}  # fmt: skip
_KINDS: dict[str, KernelKind] = {
    "softmax": "softmax", "norm": "normalization", "quantize": "quantize",
    "copy": "reformat", "clone": "reformat", "cat": "reformat", "contiguous": "reformat",
    "reshape": "reformat",
}  # fmt: skip
"""By a word of the name of an operator."""
_POINTWISE = (
    "abs", "add", "clamp", "div", "eq", "erf", "exp", "ge", "gelu", "gt", "le", "log",
    "logical_and", "logical_not", "lt", "masked_fill", "mul", "ne", "neg", "pow", "reciprocal",
    "relu", "round", "rsqrt", "sigmoid", "silu", "sqrt", "sub", "tanh", "where",
)  # fmt: skip
_MOVED = (
    "clone|_to_copy|copy|cat|expand|permute|select|slice|split|squeeze|transpose|unsqueeze|"
    "_unsafe_view|view"
)
_QUANTIZED = "add|clamp|div|mul|round"
"""Of which a kernel around an INT8 product consists: its epilogue, and the next one's steps."""


@dataclass(frozen=True, slots=True)
class Executed:
    """One kernel of one run.

    Attributes:
        name: Unique in its run where it multiplies; all others of one operator share one.
        kind: As of :class:`Kernel`.
        precision: Of both operands, "" where it multiplies nothing.
        operator: Torch's name for it.
        module: Whose weights it read, or "".
        nanoseconds: On the device it ran on.
    """

    name: str
    kind: KernelKind
    precision: str
    operator: str
    module: str
    nanoseconds: int


class Trace:
    """Records every operator with its operands while the block runs."""

    def __init__(self, where: torch.device) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if where.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profile = torch.profiler.profile(
            activities=activities, record_shapes=True, profile_memory=True, acc_events=True
        )

    def __enter__(self) -> Trace:
        self._profile.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._profile.__exit__(*error)

    def events(self) -> list[Any]:
        """Return the roots of the tree of events."""
        found: list[Any] = self._profile.profiler.kineto_results.experimental_event_tree()
        return found


def weights_of(model: torch.nn.Module) -> dict[int, str]:
    """Return the module of every weight, by the address of its storage."""
    found = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        multiplies = not isinstance(module, torch.nn.Embedding)
        if multiplies and isinstance(weight, torch.Tensor) and weight.ndim >= 2:
            found[weight.untyped_storage().data_ptr()] = name
    return found


def executed(roots: Sequence[Any], weights: Mapping[int, str]) -> list[Executed]:
    """Return the kernels of a run in order.

    Args:
        roots: As of :meth:`Trace.events`.
        weights: As of :func:`weights_of`.
    """
    found: list[Executed] = []
    seen: Counter[str] = Counter()
    for event in _kernels(roots):
        operands = _operands(event)
        operator = re.sub(r"^graph_\d+_", "", event.name)  # how many were compiled before it
        if not operands:
            name, kind, precision, module = operator, kind_of(operator), "", ""
        else:
            module = next((weights[p] for p, _ in operands if p in weights), "")
            attention = operator.startswith(_ATTENTION)
            kind = "attention" if attention else "matmul"
            kind = "convolution" if operator == "aten::convolution" else kind
            name = module or kind
            seen[name] += 1
            name = name if seen[name] == 1 else f"{name} {seen[name]}"
            types = {_PRECISION.get(dtype, str(dtype)) for _, dtype in operands}
            precision = types.pop() if len(types) == 1 else "mixed"
        found.append(Executed(name, kind, precision, operator, module, _time(event)))
    return found


def kernels_of(run: Sequence[Executed], matmuls: Mapping[str, str]) -> list[Kernel]:
    """Return what a run executed, with the matmuls of the float graph that each computes.

    Matmuls between activations have no weights to know them by. Where torch ran as many
    attentions as the graph has, they are the same in the same order; else they are not found.
    """
    attentions = _attentions(run, matmuls)
    kernels: dict[str, Kernel] = {}
    for one in run:
        names = tuple(names_of_parts(one.module, matmuls)) if one.module else ()
        names = attentions.get(one.name, names)
        kernels.setdefault(one.name, Kernel(one.name, one.kind, one.precision, one.operator, names))
    return list(kernels.values())


def _attentions(run: Sequence[Executed], matmuls: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    wanted: dict[str, list[str]] = {}
    for name in matmuls:
        if "/" in name:
            wanted.setdefault(name.partition("/")[0], []).append(name)
    pairs = [names for names in wanted.values() if len(names) == 2]
    loose = [e.name for e in run if e.kind == "matmul" and not e.module]
    fused = [e.name for e in run if e.kind == "attention"]
    if len(fused) == len(pairs) and not loose:
        return {name: tuple(names) for name, names in zip(fused, pairs, strict=True)}
    if len(loose) == 2 * len(pairs) and not fused:
        every = [name for names in pairs for name in names]
        return {kernel: (name,) for kernel, name in zip(loose, every, strict=True)}
    return {}


def _kernels(events: Sequence[Any]) -> Iterator[Any]:
    """Yield the operators that multiply, and of all others the outermost with none below."""
    for event in events:
        operator = event.name.startswith(_OPERATORS) or "_fused_" in event.name
        alone = operator and not any(_multiplies(e.name) for e in _below(event))
        if alone or _multiplies(event.name):
            yield event
        else:
            yield from _kernels(event.children)


def _multiplies(name: str) -> bool:
    return name in _OPERANDS or name.startswith(_ATTENTION)


def _operands(event: Any) -> list[tuple[int, Any]]:
    """Return storage and type of both factors of a product; nothing of other operators."""
    if not _multiplies(event.name):
        return []
    inputs = event.typed[1].inputs
    places = _OPERANDS.get(event.name, (0, 1))
    return [(inputs[i].storage_data_ptr, inputs[i].dtype) for i in places]


def _time(event: Any) -> int:
    """Return the time on the GPU of everything an event started there, or its own."""
    there = sum(e.duration_time_ns for e in _below(event) if e.tag.name == "Kineto")
    return int(there or event.duration_time_ns)


def _below(event: Any) -> Iterator[Any]:
    for child in event.children:
        yield child
        yield from _below(child)


def kind_of(name: str) -> KernelKind:
    """Return what an operator does that multiplies nothing, by its name."""
    if "_fused_" in name:
        return _fused_kind(name.partition("_fused_")[2])
    operator = name.rpartition("::")[2].rstrip("_")
    if operator in _POINTWISE:
        return "pointwise"
    if operator == "to":  # in another type, or nothing
        return "reformat"
    words = operator.split("_")
    return next((kind for word, kind in _KINDS.items() if word in words), "other")


def _fused_kind(operators: str) -> KernelKind:
    """Return what a generated kernel does, by the names of the operators it was made of.

    One that quantizes and does something else as well is no Q/DQ on its own.
    """
    if "softmax" in operators:
        return "softmax"
    if "norm" in operators or "rsqrt" in operators:
        return "normalization"
    if re.fullmatch(rf"(({_MOVED})_)+\d+", operators):
        return "reformat"
    if "round" in operators and re.fullmatch(rf"(({_MOVED}|{_QUANTIZED})_)+\d+", operators):
        return "quantize"
    return "pointwise"
