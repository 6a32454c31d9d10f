"""Where the time goes: from what the hardware allows, part by part, to what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.ledger.record import Ledger
from deploy.profiling.results import Row
from deploy.profiling.summary import Comparison
from deploy.reporting.document import Chart, Note, Section
from deploy.reporting.figures import configuration, ms_decimals, rounded
from deploy.reporting.ledger_tables import ledger_tables, ledgers, present
from deploy.reporting.waterfall_chart import Step, Tone, waterfall_chart
from trueint8.kinds import Kind


def section(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Section:
    """Return a waterfall per configuration that has a ledger; else how to get one."""
    del comparisons
    having = ledgers(rows)
    if not having:
        return Section(
            title="Where the time goes",
            order=40,
            lead="These results hold no ledger. It takes runs in which every kernel is timed: "
            "deploy ledger BUNDLE --into results.jsonl, and report again.",
        )
    return Section(
        title="Where the time goes",
        order=40,
        lead="From the ceiling (PREDICTED: every matmul at the machine's measured peak or "
        "bandwidth) over each part that has a name to the latency (MEASURED). What is left over "
        "has no cause.",
        charts=tuple(_chart(row, ledger) for row, ledger in having),
        tables=ledger_tables(having),
        notes=_notes(having),
    )


def _chart(row: Row, ledger: Ledger) -> Chart:
    decimals = ms_decimals(ledger.latency.value)
    steps = [_step("ceiling", "ceiling", Kind.PREDICTED, 0.0, ledger.ceiling_ms, decimals)]
    at = ledger.ceiling_ms
    for part in present(ledger):
        steps.append(_step(part.name, "part", part.kind, at, at + part.ms, decimals))
        at += part.ms
    end = at + ledger.unexplained_ms
    steps.append(_step("unexplained", "unexplained", "", at, end, decimals))
    whole = _step("latency", "whole", Kind.MEASURED, 0.0, ledger.latency.value, decimals)
    title = f"{row.bundle} on {row.engine}, {configuration(row)}"
    said = "; ".join(f"{step.label} {step.shown}" for step in [*steps, whole])
    description = (
        f"Waterfall of latency, {title}, in ms: {said}. The ceiling is PREDICTED, the rest "
        "MEASURED."
    )
    spec = waterfall_chart([*steps, whole], axis_title="ms", description=description)
    return Chart(title, description, spec, row.model, row.engine)


def _step(
    label: str, tone: Tone, kind: Kind | str, start: float, end: float, decimals: int
) -> Step:
    whole = tone in ("ceiling", "whole")
    shown = rounded(end, decimals) if whole else f"{end - start:+.{decimals}f}"
    return Step(label, tone, str(kind), start, end, shown)


def _notes(having: Sequence[tuple[Row, Ledger]]) -> tuple[Note, ...]:
    notes = [
        Note(
            "A part is what its kernels took above their share of the ceiling; it is negative "
            "where they beat the probe. Parts without a kernel are left out."
        )
    ]
    for row, ledger in having:
        if ledger.not_found:
            notes.append(
                Note(
                    f"{row.model}, {row.engine}, {configuration(row)}: no kernel names "
                    f"{len(ledger.not_found)} matmuls, which are in no part of their own."
                )
            )
    return tuple(notes)
