"""Two engines side by side, layer by layer: precision, kernel and time of each product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from deploy.audit import (
    PROFILED_RUNS,
    Audit,
    AuditLine,
    Profile,
    judge,
    profile_of,
    returned,
    subject_of,
)
from deploy.audit_text import milliseconds, shortened
from deploy.bundle import GOLDEN
from deploy.golden import read_golden
from deploy.hardware import default_threads
from deploy.kernels import KernelKind
from deploy.sides import Side, check_same_inputs

_NAME = 29
_KERNEL = 16
_GROUPS: dict[str, tuple[KernelKind, ...]] = {
    "matmul and convolution": ("matmul", "convolution"),
    "attention": ("attention",),
    "quantize": ("quantize",),
    "reformat": ("reformat",),
    "softmax": ("softmax",),
    "normalization": ("normalization",),
    "pointwise and other": ("pointwise", "other"),
}


def audit_sides(sides: Sequence[Side]) -> list[Audit]:
    """Audit both sides, and time their kernels in alternating runs of the golden inputs.

    Raises:
        ConfigError: If the golden inputs of the first do not suit the other.
    """
    profiles = _profiles(sides)
    audits = []
    for index, side in enumerate(sides):
        matmuls = returned(side.bundle, side.engine.name)
        kernels = side.engine.audit(side.path, side.configuration, side.running, matmuls)
        subject = subject_of(side.bundle, side.engine.name)
        if side.configuration.graph != "int8":
            subject = replace(subject, readings={})
        audits.append(judge(side.engine, kernels, subject, profiles.get(index)))
    return audits


def _profiles(sides: Sequence[Side]) -> dict[int, Profile]:
    """Return the profile of each side that runs here, by index; runs alternate between them."""
    batch = read_golden(sides[0].bundle.path / GOLDEN).inputs
    check_same_inputs(sides)
    with ExitStack() as stack:
        sessions = {
            index: stack.enter_context(
                side.engine.open(
                    side.path, side.configuration, replace(side.running, profiled=True)
                )
            )
            for index, side in enumerate(sides)
            if side.runs_here
        }
        for _ in range(PROFILED_RUNS):
            for session in sessions.values():
                session.run(batch)
        return {i: profile_of(s, batch, default_threads()) for i, s in sessions.items()}


def layer_lines(sides: Sequence[Side], audits: Sequence[Audit]) -> Iterator[str]:
    """Yield one line per product, and totals by kind of kernel; ``≠`` marks other precisions."""
    for letter, side, audit in zip("AB", sides, audits, strict=True):
        yield f"{letter}: {side.label}  [{audit.kind}]"
    yield ""
    rows = list(pairs(audits))
    width = min(max(len("matmul"), *(len(name) for name, *_ in rows)), _NAME)
    yield f"{'matmul':<{width}}   {_title('A')}  {_title('B')}".rstrip()
    for name, *lines in rows:
        left, right = (_cell(line) for line in lines)
        mark = "≠" if _differ(lines) else " "
        yield f"{shortened(name, width):<{width}} {mark} {left}  {right}".rstrip()
    yield ""
    yield from _totals(audits)


def pairs(audits: Sequence[Audit]) -> Iterator[tuple[str, AuditLine | None, AuditLine | None]]:
    """Yield every product of either side with its line on each, None where it has none."""
    left, right = ({line.matmul: line for line in audit.lines} for audit in audits)
    for name in dict.fromkeys([*left, *right]):
        yield name, left.get(name), right.get(name)


def _title(letter: str) -> str:
    return f"{letter + ' runs':<9}{'kernel':<{_KERNEL}} {'ms':>7}"


def _cell(line: AuditLine | None) -> str:
    if line is None:
        return f"{'absent':<{9 + _KERNEL}} {'':>7}"
    time = f"{line.time_ns / 1e6:7.3f}" if line.time_ns is not None else f"{'':>7}"
    return f"{line.executed:<9}{shortened(line.kernel, _KERNEL):<{_KERNEL}} {time}"


def _differ(lines: Sequence[AuditLine | None]) -> bool:
    return len({line.executed if line is not None else "" for line in lines}) > 1


def _totals(audits: Sequence[Audit]) -> Iterator[str]:
    """Yield what differs, the coverages, and the time of each kind of kernel."""
    rows = list(pairs(audits))
    differing = sum(_differ(lines) for _, *lines in rows)
    yield f"{differing} of {len(rows)} run in another precision"
    for letter, audit in zip("AB", audits, strict=True):
        coverage = audit.coverage()
        told = f"{coverage.share * 100:.1f} %" if coverage is not None else "unknown share"
        whole = audit.time_ns()
        time = f"; all {len(audit.kernels)} kernels {milliseconds(whole)} a run" if whole else ""
        yield f"{letter}: {told} of MACs in INT8  [{audit.kind}]{time}{'  [MEASURED]' * bool(time)}"
    for title, kinds in _GROUPS.items():
        times = [_time_of(audit, kinds) for audit in audits]
        counts = [sum(k.kind in kinds for k in audit.kernels) for audit in audits]
        if any(counts):
            yield f"  {title:<22}" + "".join(map(_total, "AB", counts, times))


def _time_of(audit: Audit, kinds: tuple[KernelKind, ...]) -> float | None:
    return audit.time_ns(lambda kernel: kernel.kind in kinds)


def _total(letter: str, count: int, time: float | None) -> str:
    told = milliseconds(time) if time is not None else ""
    return f"  {letter}: {count:>4} kernels {told:>11}"
