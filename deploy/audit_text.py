"""An audit on a terminal of 100 columns."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from textwrap import wrap

from deploy.audit import Audit, AuditLine
from deploy.graph_shapes import shapes_text
from deploy.kernels import NOT_FOUND, Kernel, KernelKind

WIDTH = 100
_NAME = 42
_NAMED = 3
_SHORTEST = 24
_FIXED = 15
"""Columns of the share of MACs and of what the graph says, with their gaps."""
_ALONE = 32
"""Columns of the kernel and its time, where there is one engine only."""

_KINDS: dict[KernelKind, str] = {
    "quantize": "Q/DQ on their own",
    "reformat": "reformats and copies",
    "softmax": "softmax",
    "normalization": "normalization",
    "pointwise": "pointwise",
    "other": "other",
}
_MULTIPLYING = ("matmul", "attention", "convolution")


def audit_lines(audits: Sequence[Audit]) -> Iterator[str]:
    """Yield the audits of one graph on several engines, line by line."""
    yield from _table(audits)
    yield ""
    for reason in reasons(audits):
        yield from folded("", [reason])
    for audit in audits:
        yield from _engine(audit)


def shortened(name: str, width: int = _NAME) -> str:
    """Return a name that fits, its beginning left out: names differ at their ends."""
    return name if len(name) <= width else f"…{name[1 - width :]}"


def _table(audits: Sequence[Audit]) -> Iterator[str]:
    lines = audits[0].lines
    total = sum(line.macs for line in lines) or 1
    columns = [max(len(a.engine), len("not found")) for a in audits]
    alone = len(audits) == 1
    rest = _FIXED + sum(columns) + 2 * len(columns) + (_ALONE if alone else 0)
    longest = max(len("matmul"), *(len(line.matmul) for line in lines))
    width = min(longest, max(WIDTH - rest, _SHORTEST))
    header = "  ".join(f"{a.engine:<{w}}" for a, w in zip(audits, columns, strict=True))
    header += "  kernel" if alone else ""
    header += f"{'':<17}time" if alone and audits[0].profile else ""
    yield f"{'matmul':<{width}}  {'MACs':>6}  {'graph':<5}  {header}".rstrip()
    for index, line in enumerate(lines):
        executed = "  ".join(
            f"{a.lines[index].executed:<{w}}" for a, w in zip(audits, columns, strict=True)
        )
        floats = [bool(a.lines[index].reason) for a in audits]
        graph = "float" if all(floats) else "mixed" if any(floats) else "Q/DQ"
        name = shortened(line.matmul, width)
        kernel = f"  {_kernel_and_time(line)}" if alone else ""
        yield f"{name:<{width}}  {line.macs / total:6.1%}  {graph:<5}  {executed}{kernel}".rstrip()


def _kernel_and_time(line: AuditLine) -> str:
    kernel = shortened(line.kernel, 20)
    return kernel if line.time_ns is None else f"{kernel:<20} {milliseconds(line.time_ns):>9}"


def milliseconds(time_ns: float) -> str:
    """Return a time such as ``0.123 ms``."""
    return f"{time_ns / 1e6:.3f} ms"


def mebibytes(size: int) -> str:
    """Return a size such as ``1.25 MiB``."""
    return f"{size / 2**20:.2f} MiB"


def reasons(audits: Sequence[Audit]) -> list[str]:
    """Return why matmuls are float in the graph, with the engines where graphs differ."""
    counts = {a.engine: Counter(line.reason for line in a.lines if line.reason) for a in audits}
    told = []
    for reason in dict.fromkeys(reason for found in counts.values() for reason in found):
        of_count = {n: [e for e, found in counts.items() if found[reason] == n]
                    for n in dict.fromkeys(found[reason] for found in counts.values())}  # fmt: skip
        for count, engines in of_count.items():
            where = "" if len(of_count) == 1 else f" for {', '.join(engines)}"
            if count:
                told.append(f"float in the graph{where}, {count}: {reason}")
    return told


def _engine(audit: Audit) -> Iterator[str]:
    yield ""
    if audit.refused:
        yield f"{audit.engine}: refuses the graph"
        yield from folded("  because of ", audit.notes)
        words = [line.strip() for line in audit.refused.splitlines() if line.strip()]
        yield from (f"  | {line[: WIDTH - 4]}" for line in words[:4])
        return
    yield _share(audit)
    yield from _multiplying(audit)
    yield from _attentions(audit)
    yield from _others(audit)
    yield from folded("  note: ", audit.notes)
    yield from _missed(audit)


def _share(audit: Audit) -> str:
    coverage = audit.coverage()
    if coverage is None:
        held = ", ".join(f"{n} {kind}" for kind, n in audit.uncounted.items())
        return f"{audit.engine}: INT8 MAC coverage unknown; the graph also holds {held}"
    return (
        f"{audit.engine}: {coverage.share * 100:.1f} % of MACs in INT8 "
        f"({coverage.int8_matmuls} matmuls; {coverage.weight_matmuls} have weights)  "
        f"[{audit.kind}, read from the engine]"
    )


def _multiplying(audit: Audit) -> Iterator[str]:
    """Yield what multiplies, by precision and code, with its share of MACs and of time."""
    macs = {line.matmul: line.macs for line in audit.lines}
    total, whole = sum(macs.values()) or 1, audit.time_ns()
    groups: dict[tuple[str, str], list[Kernel]] = defaultdict(list)
    for kernel in audit.kernels:
        if kernel.kind in _MULTIPLYING:
            groups[kernel.precision, kernel.implementation].append(kernel)
    for (precision, implementation), kernels in sorted(groups.items(), key=lambda g: g[0]):
        share = sum(macs.get(m, 0) for k in kernels for m in k.matmuls) / total
        time = _time(audit, {k.name for k in kernels}, whole)
        name = shortened(implementation, 40)
        yield f"  {precision:<5} {len(kernels):>4} × {name:<40} {share:6.1%} of MACs{time}"
    if audit.profile is not None and whole is not None:
        shapes = shapes_text(audit.profile.shapes)
        told = (
            f"all {len(audit.kernels)} kernels: {milliseconds(whole)} a run, mean of "
            f"{audit.profile.runs - 1} of {shapes}, {audit.profile.threads} threads [MEASURED]"
        )
        yield from folded("  ", [told])
        yield f"  {(_int8_time(audit) or 0) * 100:.1f} % of that time in INT8 kernels"


def _time(audit: Audit, names: set[str], whole: float | None) -> str:
    taken = audit.time_ns(lambda kernel: kernel.name in names)
    if taken is None or not whole:
        return ""
    return f", {taken / whole:6.1%} of time"


def _attentions(audit: Audit) -> Iterator[str]:
    groups = Counter((a.fused, a.executed, a.kernel, a.why) for a in audit.attentions)
    for (fused, executed, kernel, why), count in groups.items():
        if fused:
            yield f"  attention: {count} fused into one kernel each ({executed}, {kernel})"
        else:
            yield f"  attention: {count} not fused" + (f" ({executed})" if not why else "")
            yield from folded("    ", [why] if why else [])


def _others(audit: Audit) -> Iterator[str]:
    whole = audit.time_ns()
    for kind, title in _KINDS.items():
        kernels = audit.of_kind(kind)
        known = [k.bytes for k in kernels if k.bytes is not None]
        size = f", {mebibytes(sum(known))} read and written" if known else ""
        time = _time(audit, {k.name for k in kernels}, whole)
        if kernels and (time or kind in ("quantize", "reformat")):
            yield f"  {title}: {len(kernels)} kernels{size}{time}"


def _missed(audit: Audit) -> Iterator[str]:
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for line in audit.missed():
        groups[line.executed, line.why].append(line.matmul)
    for (executed, why), names in groups.items():
        shown = ", ".join(shortened(name) for name in names[:_NAMED])
        more = f" and {len(names) - _NAMED} more" if names[_NAMED:] else ""
        what = f"SIMULATED: carries Q/DQ but runs in {executed}"
        if executed == NOT_FOUND:
            what = "carries Q/DQ, and nothing says what it runs in"
        yield from folded("  ", [f"{what}: {shown}{more}"])
        yield from folded("    ", [why])


def folded(indent: str, sentences: Iterable[str]) -> Iterator[str]:
    """Yield sentences in lines that fit, further ones under the first."""
    blank = " " * len(indent)
    for sentence in sentences:
        yield from wrap(sentence, WIDTH, initial_indent=indent, subsequent_indent=blank,
                        break_long_words=False, break_on_hyphens=False)  # fmt: skip


def plain(audit: Audit) -> dict[str, object]:
    """Return an audit as JSON holds it."""
    coverage = audit.coverage()
    return {
        "engine": audit.engine,
        "kind": audit.kind,
        "int8_mac_coverage": coverage and coverage.share,
        "int8_time_share": _int8_time(audit),
        "coverage": coverage and coverage.model_dump(),
        "refused": audit.refused,
        "notes": audit.notes,
        "uncounted": audit.uncounted,
        "matmuls": [asdict(line) for line in audit.lines],
        "attentions": [asdict(line) for line in audit.attentions],
        "kernels": [_timed(kernel, audit) for kernel in audit.kernels],
        "profile": audit.profile and _profile(audit),
    }


def _int8_time(audit: Audit) -> float | None:
    whole, int8 = audit.time_ns(), audit.time_ns(lambda kernel: kernel.precision == "int8")
    return int8 / whole if whole and int8 is not None else None


def _timed(kernel: Kernel, audit: Audit) -> dict[str, object]:
    times: Mapping[str, float] = audit.profile.times_ns if audit.profile is not None else {}
    return {**asdict(kernel), "time_ns": times.get(kernel.name)}


def _profile(audit: Audit) -> dict[str, object]:
    assert audit.profile is not None
    return {
        "kind": "MEASURED",
        "shapes": {name: list(shape) for name, shape in audit.profile.shapes.items()},
        "runs": audit.profile.runs,
        "threads": audit.profile.threads,
        "time_ns": audit.time_ns(),
    }
