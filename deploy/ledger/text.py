"""Ledgers of one engine on a terminal of 100 columns, a column per configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.audit_text import folded
from deploy.graph_shapes import shapes_text
from deploy.ledger.record import PARTS, Ledger, SpeedUp, SpeedUpSource
from trueint8.kinds import Kind

_TITLE, _COLUMN = 42, 14
_SHOWN_MS = 0.005
"""Parts below this are not explained further."""

_SPEED_UPS: dict[SpeedUpSource, tuple[str, Kind]] = {
    "bits": ("bits", Kind.PREDICTED),
    "macs": ("MACs at probed peaks", Kind.PREDICTED),
    "bandwidth": ("bytes at probed bandwidth", Kind.PREDICTED),
    "ceiling": ("ceiling", Kind.PREDICTED),
    "simulated": ("Q/DQ in FP32", Kind.SIMULATED),
    "measured": ("engine", Kind.MEASURED),
}


def ledger_lines(ledgers: Sequence[Ledger]) -> Iterator[str]:
    """Yield the ledgers of one engine, line by line."""
    first = ledgers[0]
    shapes = shapes_text(first.shapes)
    yield from folded("", [f"{first.engine}: ms of one call, {first.threads} threads, {shapes}"])
    yield from _headings([ledger.configuration for ledger in ledgers])
    yield _line("ceiling [PREDICTED]", [f"{ledger.ceiling_ms:.2f}" for ledger in ledgers])
    for index, name in enumerate(PARTS):
        parts = [ledger.parts[index] for ledger in ledgers]
        yield _line(
            f"+ {name}", [f"{p.ms:.2f}" if p.kernels or p.measured_ms else "-" for p in parts]
        )
    yield _line("+ unexplained", [f"{x.unexplained_ms:.2f} ({x.unexplained:.1%})" for x in ledgers])
    yield _line("= latency [MEASURED]", [f"{ledger.latency.value:.2f}" for ledger in ledgers])
    interval = [f"{x.latency.low:.4g}-{x.latency.high:.4g}" for x in ledgers]
    yield _line("  95 % interval", interval)
    yield _line("  unexplained share of it", [f"{x.unexplained:.1%}" for x in ledgers])
    yield _line("  while kernels were timed", [f"{x.profiled_ms:.2f}" for x in ledgers])
    yield ""
    yield from _speed_ups(ledgers)
    yield ""
    yield from _probed(ledgers)
    for ledger in ledgers:
        yield ""
        yield from _details(ledger)


def _headings(names: Sequence[str]) -> Iterator[str]:
    """Yield the names of configurations, the mode of a long one below it."""
    heads = [name if len(name) < _COLUMN else name.rpartition("-")[0] for name in names]
    yield _line("", heads)
    if heads != list(names):
        yield _line("", [name[len(head) :] for name, head in zip(names, heads, strict=True)])


def _line(title: str, cells: Sequence[str]) -> str:
    return f"{title:<{_TITLE}}" + "".join(f"{cell:>{_COLUMN}}" for cell in cells)


def _speed_ups(ledgers: Sequence[Ledger]) -> Iterator[str]:
    yield "speed-up over FP32 on this engine, from"
    for source, (title, kind) in _SPEED_UPS.items():
        found = [next((s for s in x.speed_ups if s.source == source), None) for x in ledgers]
        if any(found):
            yield _line(f"  {title} [{kind}]", [_ratio(s) for s in found])
    for further in (s for x in ledgers for s in x.speed_ups if s.source == "fastest float"):
        title = f"INT8 over the fastest float, {further.baseline}"
        yield f"{title} [{further.kind}]: {further.value:.2f}"


def _ratio(found: SpeedUp | None) -> str:
    return "-" if found is None else f"{found.value:.2f}"


def _probed(ledgers: Sequence[Ledger]) -> Iterator[str]:
    peaks = ", ".join(
        f"{p.precision} {p.macs_per_s / 1e9:.0f} GMAC/s ({p.engine})"
        for p in ledgers[0].probe.peaks
    )
    yield from folded("probed peaks [MEASURED]: ", [peaks])
    rates = ", ".join(
        f"{x.probe.bytes_per_s / 1e9:.1f} GB/s in {x.probe.copied_bytes / 2**20:.1f} MiB "
        f"({x.precision})"
        for x in ledgers
    )
    yield from folded("probed copies [MEASURED]: ", [rates])


def _details(ledger: Ledger) -> Iterator[str]:
    yield f"{ledger.configuration}: what takes most of each part, kernels in brackets"
    for part in ledger.parts:
        if part.measured_ms >= _SHOWN_MS:
            yield from folded(f"  {part.name}: ", [part.detail])
    if ledger.not_found:
        yield from folded("  no kernel names: ", [", ".join(ledger.not_found)])
