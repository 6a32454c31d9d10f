"""Where the figures come from: hardware, versions, threads, load, data, and definitions."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from deploy.profiling.results import Row
from deploy.profiling.statistics import CONFIDENCE, RESAMPLES
from deploy.profiling.summary import Comparison
from deploy.reporting.document import Cell, Column, Listing, Section, Table
from deploy.reporting.figures import KIND_MEANINGS, NO_EVIDENCE

_DEFINITIONS = {
    "Simulated speed-up": "time of the FP32 float graph ÷ time of the Q/DQ graph executed in FP32 "
    "arithmetic, on the same engine, both timed. It says nothing about INT8 speed.",
    "Measured speed-up": "time of the engine's fastest float precision ÷ time of its INT8 "
    "configuration. Every float precision the engine has is a row of its own.",
    "INT8 MAC coverage": "share of the float graph's multiply-accumulates that the engine "
    "executes with two INT8 operands, read from the engine.",
    "p50, p90, p95, p99": "percentiles over all samples of all rounds, linear interpolation "
    "between order statistics; shown where so many samples were taken that the largest lies "
    "above the percentile in 97.5 % of such runs. Warm-up calls, those that were still getting "
    "faster, are kept in the results file and left out here.",
    "Interval": f"{100 * CONFIDENCE:.0f} % bootstrap interval of a percentile, or of a ratio of "
    f"medians: whole rounds are drawn anew {RESAMPLES} times, the same on both sides of a ratio.",
    "faster, slower": "the whole interval of the speed-up lies above, or below, 1.",
    "Change of accuracy": "INT8 against FP32 on the same sequences; its interval draws sequences "
    "anew 1000 times, the same on both sides.",
    NO_EVIDENCE: "the interval of the speed-up includes 1.",
}


def section(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Section:
    """Return definitions, bundles, and one table of settings per session."""
    del comparisons
    sessions: dict[str, list[Row]] = {}
    for row in rows:
        sessions.setdefault(row.session, []).append(row)
    return Section(
        title="Environment, commands and definitions",
        order=80,
        lead="Files and folders are named without their paths: type the commands where they are. "
        "The SHA-256 of data and model is in each bundle's manifest.",
        tables=(
            _bundles(rows),
            *(_session(name, found) for name, found in sessions.items()),
            _definitions(),
        ),
        listings=(_commands(rows),),
    )


def _commands(rows: Sequence[Row]) -> Listing:
    """Return what to type to get this report again, in order."""
    builds = dict.fromkeys((row.built_by, row.bundle) for row in rows if row.built_by)
    measures = list(dict.fromkeys(row.measured_by for row in rows if row.measured_by))
    files = [f"results-{n}.jsonl" for n in range(1, len(measures) + 1)]
    if len(measures) == 1:
        files = ["results.jsonl"]
    lines = [f"{build} -o {shlex.quote(bundle)}" for build, bundle in builds]
    lines += [f"{line} -o {file}" for line, file in zip(measures, files, strict=True)]
    if len(files) > 1:
        lines.append(f"cat {' '.join(files)} > results.jsonl")
    if not measures:
        lines = ["# these results do not say how their bundles were built and measured"]
    return Listing(
        "Commands that give this report", (*lines, "deploy report results.jsonl -o report.html")
    )


def _definitions() -> Table:
    kinds = [(Cell("", kind), Cell(meaning)) for kind, meaning in KIND_MEANINGS.items()]
    terms = [(Cell(term), Cell(meaning)) for term, meaning in _DEFINITIONS.items()]
    return Table("What the words mean", (Column("Term"), Column("Meaning")), (*kinds, *terms))


def _bundles(rows: Sequence[Row]) -> Table:
    seen: dict[tuple[str, ...], None] = {}
    for row in rows:
        names = (row.model, row.bundle, row.attention, row.calibration, row.task, row.data)
        seen.setdefault((*names, row.bundle_sha256))
    titles = ("Model", "Bundle", "Attention", "Calibration", "Task", "Data", "SHA-256 of manifest")
    lines = tuple(tuple(map(Cell, line)) for line in seen)
    return Table("Models and bundles", tuple(map(Column, titles)), lines, brief=True)


def _session(name: str, rows: Sequence[Row]) -> Table:
    times = sorted(row.time for row in rows)
    when = times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"
    threads = sorted({row.latency.threads for row in rows if row.latency})
    lines = [("time (UTC)", when), ("rows", str(len(rows)))]
    lines.append(("threads per inference", ", ".join(map(str, threads)) or "not recorded"))
    lines += _conditions(rows)
    lines += _flattened(rows[0].environment)
    cells = tuple((Cell(setting), Cell(value)) for setting, value in lines)
    return Table(f"Session {name}", (Column("Setting"), Column("Value")), cells, brief=True)


def _conditions(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yield what the machine did beside the runs, over all rounds of all rows."""
    blocks = [block for row in rows if row.latency for block in row.latency.blocks]
    if not blocks:
        return
    for words, shares in (
        ("other processes", [block.others for block in blocks]),
        ("hypervisor", [block.stolen for block in blocks]),
    ):
        mean, most = 100 * fmean(shares), 100 * max(shares)
        yield f"processors taken by {words}", f"{mean:.1f} % on average, {most:.0f} % at most"
    clocks = [block.frequency_mhz for block in blocks if block.frequency_mhz]
    if clocks:
        yield "processor clock after each round", f"{min(clocks):.0f} to {max(clocks):.0f} MHz"
    governors = dict.fromkeys(block.governor for block in blocks if block.governor)
    yield "governor in each round", ", ".join(governors) or "not readable"


def _flattened(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield every leaf of nested settings with the path to it; short lists stay on one line."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flattened(inner, (*path, str(key).replace("_", " ")))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for number, item in enumerate(value, start=1):
            yield from _flattened(item, (*path, str(number)))
    else:
        yield " › ".join(path), _leaf(value)


def _leaf(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if value is None or value == {}:
        return "none"
    return str(value)
