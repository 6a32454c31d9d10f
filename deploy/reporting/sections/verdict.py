"""What is to be read first: a sentence per model and engine, and what speaks against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.profiling.gates import Finding, check_rows, unchecked
from deploy.profiling.results import Row
from deploy.profiling.summary import Comparison
from deploy.reporting.document import Note, Section
from deploy.reporting.verdicts import verdict_of


def section(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Section:
    """Return verdicts and warnings."""
    findings, lacking = check_rows(rows), unchecked(rows)
    lead = "In brackets: 95 % intervals, of accuracy over the same sequences on both sides."
    if lacking:
        lead += f" These results say too little to check: {', '.join(lacking)}."
    elif not findings:
        lead += " No gate found anything against these figures."
    return Section(
        title="Verdict",
        order=5,
        lead=lead,
        statements=tuple(verdict_of(comparison) for comparison in comparisons),
        warnings=tuple(_warnings(findings)),
    )


def _warnings(findings: Sequence[Finding]) -> Iterator[Note]:
    """Yield one line for what the same gate found and the same remedy helps."""
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.name, finding.fix), []).append(finding)
    for (name, fix), found in alike.items():
        yield Note("; ".join(finding.text for finding in found), name=name, fix=fix)
