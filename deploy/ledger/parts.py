"""From kernels and their times to the named parts of a latency."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from deploy.kernels import Kernel, KernelKind
from deploy.ledger.costs import BITS
from deploy.ledger.dispatch import Dispatch
from deploy.ledger.record import PARTS, Part, PartName
from trueint8.kinds import Kind

_PART_OF: dict[KernelKind, PartName] = {
    "quantize": "quantize",
    "reformat": "reformat",
    "softmax": "normalization",
    "normalization": "normalization",
    "pointwise": "pointwise",
    "other": "other operators",
}
_TOLD = 3
"""Kinds of kernels that a part's detail names."""


@dataclass(frozen=True, slots=True)
class Timed:
    """What one configuration executes and what that took.

    Attributes:
        kernels: From the audit.
        times_ns: Per run, by kernel.
        ceilings_ns: By product of the float graph.
        attentions: Each as the names of its products.
        precision: That the ceiling takes every product to run in.
    """

    kernels: Sequence[Kernel]
    times_ns: Mapping[str, float]
    ceilings_ns: Mapping[str, float]
    attentions: Collection[Sequence[str]]
    precision: str

    def not_found(self) -> list[str]:
        """Return the products that no kernel names."""
        named = {name for kernel in self.kernels for name in kernel.matmuls}
        return [name for name in self.ceilings_ns if name not in named]

    def ceiling_ns(self, kernel: Kernel) -> float:
        """Return the least time of what a kernel multiplies."""
        return sum(self.ceilings_ns.get(name, 0.0) for name in kernel.matmuls)


@dataclass(slots=True)
class _Sum:
    """What is added up for one part; ``by`` holds time and count per kind of kernel."""

    measured_ns: float = 0.0
    ceiling_ns: float = 0.0
    by: dict[str, tuple[float, int]] = field(default_factory=dict)

    def add(self, label: str, time_ns: float, ceiling_ns: float) -> None:
        self.measured_ns += time_ns
        self.ceiling_ns += ceiling_ns
        time, count = self.by.get(label, (0.0, 0))
        self.by[label] = (time + time_ns, count + 1)


def parts_of(timed: Timed, dispatch: Dispatch) -> list[Part]:
    """Return every part in its order: what its kernels took, less their share of the ceiling.

    Args:
        timed: Kernels and their times.
        dispatch: What calls and kernels cost outside the kernels, measured by itself.
    """
    place = _Places(timed)
    sums: dict[PartName, _Sum] = defaultdict(_Sum)
    known = {kernel.name: kernel for kernel in timed.kernels}
    for name, time_ns in timed.times_ns.items():
        kernel = known.get(name, Kernel(name, "other", implementation=name))
        sums[place.of(kernel)].add(_label(kernel), time_ns, timed.ceiling_ns(kernel))
    sums["dispatch"].measured_ns = dispatch.ns
    return [
        Part(
            name=name,
            ms=(sums[name].measured_ns - sums[name].ceiling_ns) / 1e6,
            kind=Kind.MEASURED,
            measured_ms=sums[name].measured_ns / 1e6,
            ceiling_ms=sums[name].ceiling_ns / 1e6,
            kernels=sum(n for _, n in sums[name].by.values()),
            detail=dispatch.told if name == "dispatch" else _detail(sums[name]),
        )
        for name in PARTS
    ]


class _Places:
    """Decides which part a kernel belongs to."""

    def __init__(self, timed: Timed) -> None:
        self._bits = BITS[timed.precision]
        self._attended = {name for names in timed.attentions for name in names}
        executed = [set(k.matmuls) for k in timed.kernels if k.kind != "matmul"]
        self._loose = {
            name
            for names in timed.attentions
            if not any(set(names) <= held for held in executed)
            for name in names
        }

    def of(self, kernel: Kernel) -> PartName:
        """Return its part.

        A softmax belongs to attention where one of the graph is in several kernels.
        """
        if kernel.kind == "softmax" and self._loose:
            return "unfused attention"
        if kernel.kind not in ("matmul", "convolution", "attention"):
            return _PART_OF[kernel.kind]
        attended = self._attended & set(kernel.matmuls)
        if kernel.kind == "attention" or attended:
            return "unfused attention" if self._loose & attended else "fused attention"
        if BITS.get(kernel.precision, 64) > self._bits:
            return "float matmuls"
        return "matmuls below peak"


def _label(kernel: Kernel) -> str:
    """Return what kernels of one kind have in common, in the engine's words."""
    words = (kernel.operator or kernel.implementation or kernel.name, kernel.precision)
    return " ".join(filter(None, words))


def _detail(found: _Sum) -> str:
    largest = sorted(found.by.items(), key=lambda item: -item[1][0])[:_TOLD]
    return ", ".join(f"{label} {time / 1e6:.2f} ms ({n})" for label, (time, n) in largest)
