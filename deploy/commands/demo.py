"""``deploy demo``: the whole job on two small models trained here."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click

from deploy.options import command_from_options, option, print_json

HELP = """Train two small encoders, build INT8 engines of both, profile them and write the report.

One has vanilla softmax, one clipped softmax. Both learn masked-LM on the source of this Python's
standard library, which every machine has; the files they are evaluated on are never trained on.
What an interrupted run finished is kept and not done again.

\b
Examples:
  deploy demo
  deploy demo -o /tmp/demo --seconds 20
"""


@dataclasses.dataclass(frozen=True, slots=True)
class DemoOptions:
    """Everything ``deploy demo`` can be told."""

    out: str = option("trueint8-demo", short="-o", help="Folder for everything the demo makes.")
    seconds: float = option(
        50.0, type=float, help="Longest training time of each of the two models."
    )
    rounds: int = option(12, type=int, help="Interleaved rounds when profiling.")
    force: bool = option(False, type=bool, help="Train and build again what is there already.")
    json: bool = option(False, type=bool, help="Print the rows as JSON.")
    quiet: bool = option(False, type=bool, help="Print errors only.")


def run(options: DemoOptions) -> None:
    """Run the demo and say where the report is."""
    from deploy.demonstration import run_demo
    from deploy.reporting.table import print_overview
    from trueint8.progress import progress_for

    rows, report = run_demo(
        Path(options.out),
        seconds=options.seconds,
        rounds=options.rounds,
        force=options.force,
        progress=progress_for(quiet=options.quiet),
    )
    if options.json:
        print_json([row.model_dump(by_alias=True, mode="json", exclude_none=True) for row in rows])
    elif not options.quiet:
        print_overview(rows, sys.stdout)
        click.echo(f"report: {report}")


COMMAND = command_from_options(DemoOptions, run, help=HELP)
