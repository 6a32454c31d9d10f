"""What makes a claim from these rows wrong or weak, by name, with the way out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from deploy.profiling.results import Row
from deploy.sessions import Configuration
from trueint8.errors import EvidenceError
from trueint8.kinds import Kind

ENGINE_TOLERANCE = 5e-3
"""Of the largest output: FP32 arithmetic in another order stays far below, BF16 does not."""
LEAST_ROUNDS = 10
LEAST_SEQUENCES = 30
MOST_OTHERS = 0.10
MOST_STOLEN = 0.02
MOST_LOAD = 0.5
"""Load average per processor, where rounds do not say what others took."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason not to believe figures as they stand."""

    name: str
    """Of the gate."""
    subjects: tuple[str, ...]
    """Models and engines it is about."""
    sentence: str
    fix: str

    @property
    def text(self) -> str:
        """Return one line: subjects and sentence."""
        return f"{', '.join(self.subjects)}: {self.sentence}"


Found = Iterator[tuple[str, str]]
"""Sentences with their fixes, of the rows of one bundle on one engine."""


def check_rows(rows: Sequence[Row]) -> list[Finding]:
    """Pass rows through every gate.

    Args:
        rows: Of one or more sessions.

    Returns:
        Findings gate by gate; the same sentence of several subjects is one finding.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.session, row.bundle_sha256, row.engine), []).append(row)
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for name, gate in GATES.items():
        for group in groups.values():
            ran = [row for row in group if row.kind is not Kind.BUILT]
            subject = f"{group[0].bundle} on {group[0].engine}"
            for sentence, fix in gate(ran):
                found.setdefault((name, sentence, fix), {})[subject] = None
    return [Finding(name, tuple(to), text, fix) for (name, text, fix), to in found.items()]


def require_none(findings: Sequence[Finding]) -> None:
    """Refuse rows that a gate found something in.

    Raises:
        EvidenceError: Naming every gate, with the first one's fix.
    """
    if findings:
        lines = "".join(f"\n  {f.name}: {f.text}" for f in findings)
        count = f"{len(findings)} warning{'s' * (len(findings) > 1)}"
        raise EvidenceError(f"{count} with --strict:{lines}", fix=findings[0].fix)


def unchecked(rows: Sequence[Row]) -> list[str]:
    """Return the gates that some row says too little for."""
    ran = [row for row in rows if row.kind is not Kind.BUILT]
    lacking = {
        "baseline-differs": any(row.parity is None for row in ran if row.graph == "float"),
        "data-overlap": any(row.overlap is None for row in ran),
        "float-precision": any(row.floats is None for row in ran),
        "float-attention": any(r.fused_attentions is None for r in ran if r.graph == "float"),
        "machine-under-load": any(row.latency and not row.latency.blocks for row in ran),
        "throttled": any(row.latency and not row.latency.blocks for row in ran),
    }
    return [name for name, lacks in lacking.items() if lacks]


def baseline_differs(rows: Sequence[Row]) -> Found:
    """The float model that was timed is not the framework's."""
    for row in rows:
        parity = row.parity
        if parity is None or row.graph != "float":
            continue
        if parity.graph > parity.tolerance:
            yield (
                f"the float graph differs from the framework's model by {parity.graph:.1e} of the "
                f"largest output (tolerance {parity.tolerance:.0e})",
                "export the model again and compare its outputs",
            )
        if parity.engine is not None and not parity.engine <= ENGINE_TOLERANCE:
            yield (
                f"the engine's FP32 baseline differs from the float graph by {parity.engine:.1e} "
                f"of the largest output (tolerance {ENGINE_TOLERANCE:.0e})",
                "look for a lower precision or a fast-math option that the engine takes by itself",
            )


def data_overlap(rows: Sequence[Row]) -> Found:
    """The model was calibrated on what it is evaluated on."""
    for overlap in dict.fromkeys(row.overlap for row in rows if row.overlap is not None):
        if overlap.shared:
            yield (
                f"{overlap.shared} of {overlap.compared} pieces of the evaluation data are also "
                "in the calibration data: accuracy on other data may be lower",
                "evaluate on data that the calibration did not see",
            )


def float_precision(rows: Sequence[Row]) -> Found:
    """INT8 is compared with less than the engine's best float."""
    if not any(row.precision == "int8" for row in rows):
        return
    timed = {
        Configuration("float", row.rest, row.mode).name
        for row in rows
        if row.graph == "float" and row.latency is not None
    }
    offered = {name for row in rows for name in row.floats or ()}
    if absent := sorted(offered - timed):
        yield (
            f"the engine also has {', '.join(absent)}, which was not timed: the float baseline "
            "may not be its fastest",
            "profile every float configuration of the engine",
        )
    elif not timed:
        yield "no float baseline was timed", "profile the float configurations too"


def float_attention(rows: Sequence[Row]) -> Found:
    """INT8 has fused attention, and no float that it is compared with has it."""
    fused = {
        side: max((r.fused_attentions or 0 for r in rows if r.graph == side), default=0)
        for side in ("float", "qdq")
    }
    if any(r.graph == "float" for r in rows) and fused["float"] < fused["qdq"]:
        yield (
            f"INT8 has {fused['qdq']} fused attentions, and no float baseline has more than "
            f"{fused['float']}",
            "build the float graph so that the engine fuses its attention too",
        )


def too_few_samples(rows: Sequence[Row]) -> Found:
    """Intervals are not what they say."""
    rounds = [len(row.latency.rounds_ns) for row in rows if row.latency is not None]
    if rounds and min(rounds) < LEAST_ROUNDS:
        yield (
            f"{min(rounds)} rounds: an interval from fewer than {LEAST_ROUNDS} is too narrow",
            f"pass --rounds {LEAST_ROUNDS} or more",
        )
    sequences = [figure.samples for row in rows for figure in row.accuracy]
    if sequences and min(sequences) < LEAST_SEQUENCES:
        yield (
            f"accuracy over {min(sequences)} sequences; {LEAST_SEQUENCES} or more are needed",
            f"pass --samples {LEAST_SEQUENCES} or more, and data that has them",
        )


def machine_under_load(rows: Sequence[Row]) -> Found:
    """Others took processor time while runs were timed."""
    fix = "stop what else runs on the machine, and profile again"
    blocks = [b for row in rows if row.latency is not None for b in row.latency.blocks]
    if blocks:
        others, stolen = fmean(b.others for b in blocks), fmean(b.stolen for b in blocks)
        if others > MOST_OTHERS:
            yield (
                f"other processes took {100 * others:.0f} % of all processors during the runs",
                fix,
            )
        if stolen > MOST_STOLEN:
            yield (
                f"the hypervisor withheld {100 * stolen:.0f} % of all processors during the runs",
                "profile on a machine that is not shared",
            )
        return
    for load, cores in dict.fromkeys(map(_load_and_cores, rows)):
        if load > MOST_LOAD * cores:
            yield f"the load average was {load:.1f} on {cores:.0f} processors before the start", fix


def throttled(rows: Sequence[Row]) -> Found:
    """A processor was slowed down while runs were timed."""
    blocks = [b for row in rows if row.latency is not None for b in row.latency.blocks]
    fix = "cool the machine or lower its clocks to what it holds, and profile again"
    if hot := sum(bool(b.throttle_events) for b in blocks):
        yield f"cores were slowed down for heat in {hot} of {len(blocks)} rounds", fix
    reasons = Counter(r for b in blocks if b.gpu is not None for r in b.gpu.throttled)
    for reason, count in reasons.items():
        yield f"the GPU was slowed down ({reason}) in {count} of {len(blocks)} rounds", fix


def _load_and_cores(row: Row) -> tuple[float, float]:
    load, cores = (row.environment.get(key) for key in ("load_average_1m", "cores"))
    if isinstance(load, int | float) and isinstance(cores, int | float):
        return float(load), float(cores)
    return 0.0, 1.0


GATES: dict[str, Callable[[Sequence[Row]], Found]] = {
    "baseline-differs": baseline_differs,
    "data-overlap": data_overlap,
    "float-precision": float_precision,
    "float-attention": float_attention,
    "too-few-samples": too_few_samples,
    "machine-under-load": machine_under_load,
    "throttled": throttled,
}
