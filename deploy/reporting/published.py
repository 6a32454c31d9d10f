"""The report as data: what ``--format json`` writes and the page offers to download.

Raw samples stay in the results file; every figure here follows from them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Literal

from pydantic import Field

from deploy.harness.results import TaskRow
from deploy.ledger.record import Ledger
from deploy.manifest import Interval
from deploy.profiling.evidence import AuditEntry, TensorEntry
from deploy.profiling.gates import check_rows
from deploy.profiling.results import Accuracy, Coverage, Overlap, Parity, Row
from deploy.profiling.scoring import DROP_UNIT, DropUnit
from deploy.profiling.statistics import Estimate
from deploy.profiling.summary import Comparison, RowFigures, summarize
from deploy.profiling.variants import relative_latency, vanilla_beside
from deploy.record import Record
from deploy.reporting.figures import configuration, ratio_kind, verdict
from deploy.reporting.layers import layers
from deploy.reporting.pareto import Candidate, Tradeoff, tradeoffs
from deploy.reporting.published_resources import ResourcesEntry, resource_columns, resources
from deploy.reporting.published_tasks import TaskEntry, task_entries
from deploy.reporting.verdicts import verdict_of
from trueint8 import __version__
from trueint8.kinds import Kind

Schema = Literal["trueint8/report/1", "trueint8/report/2"]
"""Every version that is read."""

SCHEMA: Schema = "trueint8/report/2"
"""The version that is written: 2 adds resources beside memory and size, and tasks."""

Standing = tuple[Candidate, Tradeoff]


class ConfigurationEntry(ResourcesEntry):
    """One row of the results."""

    configuration: str = Field(description="Such as FP32, Q/DQ in FP32, or INT8 + BF16.")
    kind: Kind
    graph: Literal["float", "qdq"]
    precision: str
    rest: str
    mode: str
    p50_ms: Interval | None = None
    percentiles_ms: dict[str, Interval] = Field(
        default={}, description="p90, p95 and p99, where there are enough samples."
    )
    sequences_per_s: float | None = None
    samples: int = Field(description="Runs that were timed, warm-up left out.")
    rounds: int
    batch: int | None = None
    sequence: int | None = None
    threads: int | None = None
    cuda_graph: bool | None = Field(
        default=None, description="Whether runs replayed a CUDA graph; null where there are none."
    )
    accuracy: list[Accuracy] = []
    coverage: Coverage | None = None
    attentions: int | None = Field(default=None, description="Of the graph; 0: none is known.")
    fused_attentions: int | None = Field(
        default=None, description="Of those, executed whole by one kernel."
    )
    relative_latency: Interval | None = Field(
        default=None,
        description="p50 ÷ that of vanilla attention's fastest float on the same engine and "
        "machine; above 1 is slower. Null without such a vanilla or "
        "another variant, and between bundles on a machine under load.",
    )
    parity: Parity | None = None
    on_front: bool | None = Field(
        default=None,
        description="Whether no other configuration of these data is at least as fast and as "
        "accurate, in the digits shown, and better in one; null without both figures.",
    )
    change: Interval | None = Field(
        default=None,
        description="What it loses to FP32 in the headline metric, as `drop` of the comparison.",
    )
    audit: list[AuditEntry] | None = Field(default=None, description="INT8 configurations.")
    ledger: Ledger | None = None
    built_by: str = Field(default="", description="Command that built the bundle.")
    measured_by: str = Field(default="", description="Command that measured it.")


class BundleEntry(Record):
    """One bundle's activations."""

    bundle: str
    bundle_sha256: str
    tensors: list[TensorEntry]


class RatioEntry(Record):
    """A speed-up with its 95 % interval; above 1 where the candidate is faster."""

    baseline: str
    candidate: str
    kind: Kind
    ratio: Interval
    verdict: Literal["faster", "slower", "no evidence of a difference"]


class ComparisonEntry(Record):
    """One model on one engine in one session."""

    session: str
    model: str
    bundle: str
    bundle_sha256: str
    attention: str
    calibration: str
    task: str
    data: str
    engine: str
    verdict: str = Field(description="The sentence of the report; its figures are of `kind`.")
    kind: Kind | None
    fastest_float: str | None
    speed_ups: list[RatioEntry]
    drop: Interval | None = Field(
        description="What INT8 loses to FP32 in the headline metric; above 0 where it is worse."
    )
    drop_unit: DropUnit | None = Field(description="%: of perplexity.")
    int8_mac_coverage: float | None = Field(description="0 to 1; null where it is not known.")
    overlap: Overlap | None
    configurations: list[ConfigurationEntry]


class WarningEntry(Record):
    """What a gate found."""

    name: str
    subjects: list[str]
    sentence: str
    fix: str


class ReportDocument(Record):
    """Everything the report's tables show."""

    schema_: Schema = Field(default=SCHEMA, alias="schema")
    version: str = Field(description="Of TrueInt8.")
    title: str
    warnings: list[WarningEntry]
    comparisons: list[ComparisonEntry]
    bundles: list[BundleEntry] = Field(default=[], description="Those whose activations are known.")
    tasks: list[TaskEntry] = Field(default=[], description="Of lm-evaluation-harness.")


def report_document(
    rows: Sequence[Row],
    title: str,
    comparisons: Sequence[Comparison] | None = None,
    tasks: Sequence[TaskRow] = (),
) -> ReportDocument:
    """Return the report as data.

    Args:
        rows: Rows of one or more sessions.
        title: Heading.
        comparisons: Of those rows, where they are known already.
        tasks: Of ``deploy lm-eval``.
    """
    comparisons = summarize(rows) if comparisons is None else comparisons
    standings = {id(c.figures): (c, f) for f in tradeoffs(comparisons) for c in f.candidates}
    return ReportDocument(
        version=__version__,
        title=title,
        warnings=[
            WarningEntry(name=f.name, subjects=list(f.subjects), sentence=f.sentence, fix=f.fix)
            for f in check_rows(rows)
        ],
        comparisons=[
            _comparison(c, vanilla_beside(c, comparisons), standings) for c in comparisons
        ],
        bundles=[
            BundleEntry(
                bundle=of.row.bundle, bundle_sha256=of.row.bundle_sha256, tensors=of.tensors
            )
            for of in layers(rows)
        ],
        tasks=task_entries(tasks),
    )


def json_report(document: ReportDocument, *, indent: int | None = 2) -> str:
    """Return the document as JSON text, on one line if not indented."""
    return document.model_dump_json(by_alias=True, indent=indent) + "\n"


def csv_report(document: ReportDocument) -> str:
    """Return one line per configuration with its figures, intervals in columns of their own."""
    lines = [line for entry in document.comparisons for line in _csv_lines(entry)]
    names = dict.fromkeys(name for line in lines for name in line)
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _csv_lines(entry: ComparisonEntry) -> Iterator[dict[str, object]]:
    about = ("session", "model", "bundle", "attention", "calibration", "task", "data", "engine")
    plain = ("configuration", "kind", "samples", "rounds", "batch", "sequence", "threads",
             "sequences_per_s")  # fmt: skip
    for one in entry.configurations:
        line: dict[str, object] = {name: getattr(entry, name) for name in about}
        line |= {name: getattr(one, name) for name in plain} | dict(resource_columns(one))
        for name, found in {"p50": one.p50_ms, **one.percentiles_ms}.items():
            if found is not None:
                line |= {f"{name}_ms": found.value}
                line |= {f"{name}_ms_low": found.low, f"{name}_ms_high": found.high}
        line |= {figure.metric: figure.value for figure in one.accuracy}
        if one.coverage is not None:
            line["int8_mac_coverage"] = one.coverage.share
        yield line


def _comparison(
    comparison: Comparison, vanilla: Comparison | None, standings: Mapping[int, Standing]
) -> ComparisonEntry:
    rows = [figures.row for figures in comparison.rows]
    last, said = rows[-1], verdict_of(comparison)
    scores = comparison.int8.row.scores if comparison.int8 and comparison.drop else None
    return ComparisonEntry(
        session=last.session,
        model=last.model,
        bundle=last.bundle,
        bundle_sha256=last.bundle_sha256,
        attention=last.attention,
        calibration=last.calibration,
        task=last.task,
        data=last.data,
        engine=last.engine,
        verdict=said.text,
        kind=said.kind,
        fastest_float=comparison.fastest_float.row.label if comparison.fastest_float else None,
        speed_ups=list(_ratios(comparison)),
        drop=_interval(comparison.drop),
        drop_unit=DROP_UNIT[scores.metric] if scores else None,
        int8_mac_coverage=comparison.coverage.share if comparison.coverage else None,
        overlap=last.overlap,
        configurations=[
            _configuration(figures, vanilla, standings.get(id(figures)))
            for figures in comparison.rows
        ],
    )


def _ratios(comparison: Comparison) -> Iterator[RatioEntry]:
    """Yield INT8 against every float, and the simulation against FP32."""
    floats = {figures.row.label: figures for figures in comparison.floats}
    pairs = [
        (floats[label], comparison.int8, ratio) for label, ratio in comparison.speed_ups.items()
    ]
    single = next((f for f in comparison.floats if f.row.precision == "fp32"), None)
    if comparison.simulated_speed_up is not None and single is not None:
        pairs.append((single, comparison.simulated, comparison.simulated_speed_up))
    for baseline, candidate, ratio in pairs:
        assert candidate is not None
        yield RatioEntry(
            baseline=baseline.row.label,
            candidate=configuration(candidate.row),
            kind=ratio_kind(baseline.row, candidate.row),
            ratio=Interval(**asdict(ratio)),
            verdict=verdict(ratio),
        )


def _configuration(
    figures: RowFigures, vanilla: Comparison | None, standing: Standing | None
) -> ConfigurationEntry:
    row, latency = figures.row, figures.row.latency
    candidate, tradeoff = standing or (None, None)
    known = {f"p{q}": _interval(e) for q, e in figures.percentiles_ms.items()}
    return ConfigurationEntry(
        configuration=configuration(row),
        kind=row.kind,
        graph=row.graph,
        precision=row.precision,
        rest=row.rest,
        mode=row.mode,
        p50_ms=_interval(figures.median_ms),
        percentiles_ms={name: found for name, found in known.items() if found is not None},
        sequences_per_s=figures.throughput_per_s,
        samples=sum(map(len, latency.rounds_ns)) if latency else 0,
        rounds=len(latency.rounds_ns) if latency else 0,
        batch=latency.batch if latency else None,
        sequence=latency.sequence if latency else None,
        threads=latency.threads if latency else None,
        cuda_graph=row.cuda_graph,
        accuracy=row.accuracy,
        coverage=row.coverage,
        attentions=row.attentions,
        fused_attentions=row.fused_attentions,
        relative_latency=_interval(relative_latency(figures, vanilla)),
        parity=row.parity,
        on_front=any(c is candidate for c in tradeoff.front) if tradeoff else None,
        change=_interval(candidate.drop) if candidate else None,
        audit=row.audit,
        ledger=row.ledger,
        built_by=row.built_by,
        measured_by=row.measured_by,
        **resources(row),
    )


def _interval(estimate: Estimate | None) -> Interval | None:
    return None if estimate is None else Interval(**asdict(estimate))
