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

_DOCTYPE = "<!doctype html"


@dataclasses.dataclass(frozen=True, slots=True)
class ReportOptions:
    """Everything ``deploy report`` can be told."""

    results: str = argument("results.jsonl", metavar="[RESULTS]")
    out: str = option("report.html", short="-o", help="The HTML file.")
    title: str | None = option(help="Heading.  [default: the models' names]")
    force: bool = option(False, type=bool, help="Replace a file that is no HTML.")
    quiet: bool = option(False, type=bool, help="Print errors only.")


def run(options: ReportOptions) -> None:
    """Write the report."""
    from deploy.profiling.results import check_writable, read_results
    from deploy.reporting.page import write_report

    results, out = Path(options.results), Path(options.out)
    check_writable(out)
    _check_target(results, out, force=options.force)
    rows = read_results(results)
    write_report(rows, out, title=options.title)
    if not options.quiet:
        click.echo(f"{options.out}: {len(rows)} rows")


def _check_target(results: Path, out: Path, *, force: bool) -> None:
    """Refuse to write over the results, or without ``force`` over what is no report.

    Raises:
        ConfigError: Naming the file that would be lost.
    """
    from trueint8.errors import ConfigError

    if not out.exists():
        return
    if results.exists() and out.samefile(results):
        raise ConfigError(
            f"-o {out} is the results file itself", fix="pass another file: -o report.html"
        )
    with out.open("rb") as stream:
        start = stream.read(1024).decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if start and not start.lower().startswith(_DOCTYPE) and not force:
        raise ConfigError(
            f"{out} exists and is no HTML file", fix="pass another -o, or --force to replace it"
        )


COMMAND = command_from_options(ReportOptions, run, help=HELP)
