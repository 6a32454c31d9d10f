"""``deploy profile``: latency, memory, size and accuracy of every configuration of bundles."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from deploy.options import Origin, argument, command_from_options, option, print_json, typed

if TYPE_CHECKING:
    from deploy.profiling.gates import Finding
    from deploy.profiling.results import Row

HELP = """Measure float, simulated and INT8 of every engine in the bundles.

Hashes are verified first. Each configuration runs in a fresh process; rounds of all
configurations of an engine are interleaved in random order, with equal threads. Accuracy is
computed for the float graph, for the Q/DQ graph in FP32 arithmetic (SIMULATED) and for the
engine (MEASURED).

\b
Examples:
  deploy profile bert-int8 --data eval.txt
  deploy profile bundles/* --data eval.jsonl --rounds 30 -o results.jsonl
  deploy profile bert-int8 --data eval.txt --engine openvino --threads 1 --batch-size 1
"""


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileOptions:
    """Everything ``deploy profile`` can be told."""

    bundles: tuple[str, ...] = argument((), metavar="BUNDLE...", many=True)
    data: str | None = option(help="Evaluation data: .txt, .jsonl, .npz, or a folder of such.")
    out: str = option("results.jsonl", short="-o", help="Results file, one JSON object per line.")
    engine: str | None = option(help="Only these engines, joined by commas.  [default: all]")
    samples: int = option(64, type=int, help="Sequences for accuracy.")
    batch_size: int = option(8, type=int, help="Sequences per inference.")
    seq_len: int | None = option(type=int, help="Tokens per sequence.  [default: as calibrated]")
    rounds: int = option(15, type=int, help="Interleaved rounds; at least 3.")
    round_ms: float = option(150.0, type=float, help="Aim for one configuration's round, in ms.")
    launches: int | None = option(
        type=int,
        help="Fresh processes of each configuration that rounds are spread over.  "
        "[default: one for 3 rounds, at most 5]",
    )
    threads: int | None = option(type=int, help="Threads of every engine.  [default: all]")
    clock: Literal["host", "device", "kernels"] = option(
        "host",
        type=click.Choice(["host", "device", "kernels"]),
        help="What takes the time: the host, around the whole call; CUDA events around copies and "
        "kernels; or around kernels alone.",
    )
    cuda_graph: Literal["on", "off"] | None = option(
        type=click.Choice(["on", "off"]),
        help="Replay kernels as a CUDA graph, or launch them one by one.  [default: as built]",
    )
    batch: str | None = option(
        help="Batch sizes whose throughput is measured, joined by commas.  [default: --batch-size]"
    )
    streams: str | None = option(
        help="Requests at a time, joined by commas, under which throughput is measured."
    )
    rebuilds: int = option(
        0, type=int, help="Build INT8 engines so often again, and show how builds differ."
    )
    timeout: float = option(600.0, type=float, help="Longest wait for one answer, in seconds.")
    seed: int = option(0, type=int, help="Seed of sampling, masking and round order.")
    force: bool = option(False, type=bool, help="Replace an existing results file.")
    strict: bool = option(False, type=bool, help="Exit with 12 if a gate finds anything.")
    json: bool = option(False, type=bool, help="Print the rows as JSON too.")
    quiet: bool = option(False, type=bool, help="Print errors only.")


def command_of(options: ProfileOptions) -> str:
    """Return the line to type for the same rows, with names in place of paths and without -o."""
    return typed(options, "deploy profile", without=("out", "force", "strict", "json", "quiet"))


def run(options: ProfileOptions, origins: dict[str, Origin]) -> None:
    """Measure, write the results file, and print the table."""
    del origins
    from deploy.profiling.gates import check_rows, require_none
    from deploy.profiling.measurement import ProfileRequest, measure
    from deploy.profiling.results import check_writable, write_results
    from deploy.reporting.table import print_overview
    from trueint8.errors import ConfigError
    from trueint8.progress import progress_for

    if options.data is None:
        raise ConfigError(
            "accuracy needs evaluation data, and none was given",
            fix="pass --data with text or arrays that were not used for calibration",
        )
    out = Path(options.out)
    check_writable(out)
    if out.exists() and not options.force:
        raise ConfigError(f"{out} exists", fix="pass another -o, or --force to replace it")
    request = ProfileRequest(
        bundles=[Path(b) for b in options.bundles],
        data=Path(options.data),
        rounds=options.rounds,
        launches=options.launches,
        round_ms=options.round_ms,
        threads=options.threads,
        samples=options.samples,
        batch_size=options.batch_size,
        seq_len=options.seq_len,
        seed=options.seed,
        engines=[e.strip() for e in options.engine.split(",")] if options.engine else [],
        clock=options.clock,
        cuda_graph=None if options.cuda_graph is None else options.cuda_graph == "on",
        batches=_counts("--batch", options.batch),
        streams=_counts("--streams", options.streams),
        rebuilds=options.rebuilds,
        timeout_s=options.timeout,
    )
    rows: list[Row] = []
    try:
        for row in measure(request, progress_for(quiet=options.quiet)):
            rows.append(row.model_copy(update={"measured_by": command_of(options)}))
    except BaseException:
        if rows:
            kept = out.with_name(f"{out.stem}.partial.jsonl")
            write_results(kept, rows)
            click.echo(f"{kept}: the {len(rows)} rows measured before this error", err=True)
        raise
    write_results(out, rows)
    findings = check_rows(rows)
    if options.json:
        print_json([row.model_dump(by_alias=True, mode="json", exclude_none=True) for row in rows])
    elif not options.quiet:
        print_overview(rows, sys.stdout)
        _print_verdicts(rows, findings)
        click.echo(f"{out}: {len(rows)} rows; next: deploy report {out} -o report.html")
    if options.strict:
        require_none(findings)


def _counts(flag: str, text: str | None) -> list[int]:
    """Read numbers joined by commas.

    Raises:
        ConfigError: If one is no number.
    """
    from trueint8.errors import ConfigError

    parts = text.split(",") if text else []
    if not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(f"{flag} {text} is no list of numbers", fix=f"pass {flag} 1,2")
    return [int(part) for part in parts]


def _print_verdicts(rows: list[Row], findings: list[Finding]) -> None:
    from deploy.profiling.build_spread import spread_line
    from deploy.profiling.rates import samples_per_s
    from deploy.profiling.summary import summarize
    from deploy.reporting.document import printable
    from deploy.reporting.verdicts import verdict_of

    for row in rows:
        for held in row.throughput:
            found = samples_per_s(held)
            click.echo(
                f"{printable(row.bundle)} on {row.engine}, {row.label}: {found.value:.1f} "
                f"samples/s [{found.low:.1f}, {found.high:.1f}] with batch {held.batch}, "
                f"{held.streams} at a time  [{row.kind}]"
            )
    for row in rows:
        if row.rebuilds is not None:
            title = printable(f"{row.bundle} on {row.engine}")
            click.echo(spread_line(title, row.rebuilds))
    for note in map(verdict_of, summarize(rows)):
        kind = f" [{note.kind}]" if note.kind else ""
        click.echo(f"{printable(note.name)}: {note.text}{kind}")
    for finding in findings:
        click.echo(f"warning: {finding.name}: {printable(finding.text)}\n  fix: {finding.fix}")


COMMAND = command_from_options(ProfileOptions, run, help=HELP, configurable=True)
