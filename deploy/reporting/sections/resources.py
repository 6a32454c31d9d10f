"""What a configuration needs beside time: memory, disk, energy, and how long until it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from deploy.profiling.rates import joules_per_run
from deploy.profiling.results import DeviceMemory, Row
from deploy.profiling.summary import Comparison
from deploy.reporting.document import Cell, Column, Note, Section, Table
from deploy.reporting.figures import SUBJECT, rounded, subject
from trueint8.kinds import Kind

_HOST = (
    Column("peak", "Host memory, MiB", numeric=True),
    Column("proportional", "Host memory, MiB", numeric=True),
)
_DEVICE: dict[str, Callable[[DeviceMemory], float | None]] = {
    "weights": lambda held: held.weights_mib,
    "activations": lambda held: held.activations_mib,
    "inputs and outputs": lambda held: held.inputs_and_outputs_mib,
    "whole process": lambda held: held.process_mib,
}
_REST = (
    Column("MiB", "On disk", numeric=True),
    Column("load, s", "Until it answers", numeric=True),
    Column("build, s", "Until it answers", numeric=True),
)
ENERGY = (*SUBJECT, Column("Counter"), Column("J per call", numeric=True),
          Column("J per sequence", numeric=True))  # fmt: skip


def section(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Section:
    """Return memory, size and loading of every configuration, and energy where it was read."""
    del comparisons
    device = any(row.device_memory for row in rows)
    on_device = [Column(name, "Device memory, MiB", numeric=True) for name in _DEVICE]
    columns = (*SUBJECT, *_HOST, *(on_device if device else ()), *_REST)
    lines = tuple(_line(row, device=device) for row in rows)
    tables = [Table("Memory, size and loading", columns, lines, tall=True, brief=True)]
    energy = tuple(line for row in rows for line in _energy(row))
    if energy:
        tables.append(Table("Energy", ENERGY, energy, tall=True, brief=True))
    return Section(
        title="Memory, size, loading and energy",
        order=33,
        lead="What each configuration takes beside its latency, of the process that was timed.",
        tables=tuple(tables),
        notes=tuple(_notes(rows, energy=bool(energy))),
    )


def _line(row: Row, *, device: bool) -> tuple[Cell, ...]:
    held = row.device_memory
    parts = [None if held is None else part(held) for part in _DEVICE.values()] if device else []
    return (
        *subject(row),
        *(_quantity(mib, 1, row.kind) for mib in (row.peak_memory_mib, row.pss_mib, *parts)),
        _quantity(row.size_mib, 1),
        _seconds(row.load_s, row.kind),
        _quantity(row.build_s, 2, row.kind),
    )


def _quantity(value: float | None, decimals: int, kind: Kind | None = None) -> Cell:
    return Cell("") if value is None else Cell(rounded(value, decimals), kind, order=value)


def _seconds(by_launch: Sequence[float], kind: Kind) -> Cell:
    """Return the median over launches with its extremes: too few for an interval."""
    if not by_launch:
        return Cell("")
    ends = f"{min(by_launch):.2f} to {max(by_launch):.2f}" if len(by_launch) > 1 else "one launch"
    return Cell(f"{median(by_launch):.2f}", kind, ends, order=median(by_launch))


def _energy(row: Row) -> Iterator[tuple[Cell, ...]]:
    if row.latency is None:
        return
    for name, found in joules_per_run(row.latency).items():
        cells = []
        for count in (1, row.latency.batch):
            ends = f"{found.low / count:.4g} – {found.high / count:.4g}"
            value = found.value / count
            cells.append(Cell(f"{value:.4g}", row.kind, ends, order=value))
        yield (*subject(row), Cell(name), *cells)


def _notes(rows: Sequence[Row], *, energy: bool) -> Iterator[Note]:
    yield Note(
        "Peak is the largest resident set; proportional counts pages that processes share in part, "
        "at its largest between rounds. On disk: the files the engine loads. Load: until the "
        "engine can run, compilation included, median over launches above the extremes. Build: "
        "what the bundle's build of the engine took."
    )
    if energy:
        yield Note(
            "Joules are the whole machine's during a round ÷ the calls in it, median over rounds "
            "with its 95 % interval; what idles and what others use is in them."
        )
        return
    reasons = [row.environment["energy"] for row in rows if row.environment.get("energy")]
    for reason in dict.fromkeys(map(_reason, reasons)):
        yield Note(f"No energy: {reason}.")


def _reason(unavailable: object) -> str:
    if isinstance(unavailable, dict):
        return "; ".join(f"{counter}: {why}" for counter, why in unavailable.items())
    return str(unavailable)
