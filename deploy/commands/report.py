"""``deploy report``: results to one self-contained HTML file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from deploy.options import argument, command_from_options, option

HELP = """Write one HTML file, with no link to anything outside it, from a results file.

\b
Examples:
  deploy report results.jsonl -o report.html
  deploy report results.jsonl -o report.html --title "BERT-base on Xeon"
"""


@dataclasses.dataclass(frozen=True, slots=True)
class ReportOptions:
    """Everything ``deploy report`` can be told."""

    results: str = argument("results.jsonl", metavar="[RESULTS]")
    out: str = option("report.html", short="-o", help="The HTML file.")
    title: str | None = option(help="Heading.  [default: the models' names]")
    quiet: bool = option(False, type=bool, help="Print errors only.")


def run(options: ReportOptions) -> None:
    """Write the report."""
    from deploy.profiling.results import read_results
    from deploy.reporting.page import write_report

    rows = read_results(Path(options.results))
    write_report(rows, Path(options.out), title=options.title)
    if not options.quiet:
        click.echo(f"{options.out}: {len(rows)} rows")


COMMAND = command_from_options(ReportOptions, run, help=HELP)
