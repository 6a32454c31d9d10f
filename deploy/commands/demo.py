"""``deploy demo``: the whole job on two small models that come with the package."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click

from deploy.options import command_from_options, option, print_json

HELP = """Build INT8 engines of two small encoders, profile them and write the report.

One has vanilla softmax, one clipped softmax. Both come with the package, trained on the source of
Python's standard library, which every machine has; the text they are evaluated on was never trained
on. What an interrupted run finished is kept and not done again.

\b
Examples:
  deploy demo
  deploy demo -o /tmp/demo --rounds 20
"""


@dataclasses.dataclass(frozen=True, slots=True)
class DemoOptions:
    """Everything ``deploy demo`` can be told."""

    out: str = option("trueint8-demo", short="-o", help="Folder for everything the demo makes.")
    rounds: int = option(12, type=int, help="Interleaved rounds when profiling.")
    force: bool = option(False, type=bool, help="Copy and build again what is there already.")
    json: bool = option(False, type=bool, help="Print the rows as JSON.")
    quiet: bool = option(False, type=bool, help="Print errors only.")


def run(options: DemoOptions) -> None:
    """Run the demo and say where the report is."""
    from deploy.demonstration import run_demo
    from deploy.reporting.table import print_overview
    from trueint8.progress import progress_for

    rows, report = run_demo(
        Path(options.out),
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
