"""``deploy report``: results to one self-contained HTML file, to Markdown, or to JSON."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from deploy.options import argument, command_from_options, option

if TYPE_CHECKING:
    from deploy.profiling.results import Row
    from deploy.reporting.document import Section

HELP = """Write a report from a results file: HTML that links to nothing outside it, Markdown for
a pull request, or JSON by the schema under docs/schema.

\b
Examples:
  deploy report results.jsonl -o report.html
  deploy report results.jsonl -o report.html --title "BERT-base on Xeon"
  deploy report results.jsonl --format md -o report.md --strict
  deploy report results.jsonl --load load.jsonl --tasks tasks.jsonl -o report.html
"""

FORMATS = ("html", "md", "json")


@dataclasses.dataclass(frozen=True, slots=True)
class ReportOptions:
    """Everything ``deploy report`` can be told."""

    results: str = argument("results.jsonl", metavar="[RESULTS]")
    out: str | None = option(short="-o", help="The file to write.  [default: report.FORMAT]")
    format: Literal["html", "md", "json"] = option(
        "html", type=click.Choice(FORMATS), help="What to write."
    )
    load: str | None = option(help="Rows of `deploy load`, for a section of the HTML.")
    tasks: str | None = option(help="Rows of `deploy lm-eval`, for tables in every format.")
    title: str | None = option(help="Heading.  [default: the models' names]")
    strict: bool = option(False, type=bool, help="Exit with 12 if a gate finds anything.")
    force: bool = option(False, type=bool, help="Replace a file that is no such report.")
    quiet: bool = option(False, type=bool, help="Print errors only.")


def run(options: ReportOptions) -> None:
    """Write the report; with ``--strict`` it is written before the gates speak."""
    from deploy.harness.results import read_tasks
    from deploy.profiling.gates import check_rows, require_none
    from deploy.profiling.results import check_writable, read_results
    from deploy.reporting.page import write_report

    results, out = Path(options.results), Path(options.out or f"report.{options.format}")
    check_writable(out)
    _check_target(results, out, options)
    rows = read_results(results)
    more = _load_section(options, rows)
    tasks = read_tasks(Path(options.tasks)) if options.tasks else []
    write_report(rows, out, title=options.title, format=options.format, more=more, tasks=tasks)
    if not options.quiet:
        click.echo(f"{out}: {len(rows)} rows")
    if options.strict:
        require_none(check_rows(rows))


def _load_section(options: ReportOptions, rows: list[Row]) -> list[tuple[str, Section]]:
    from trueint8.errors import ConfigError

    if options.load is None:
        return []
    if options.format != "html":
        raise ConfigError(
            f"--load has no place in a {options.format} report", fix="pass --format html"
        )
    from deploy.loading.rows import read_load
    from deploy.reporting.load_section import load_section

    return [("load", load_section(read_load(Path(options.load)), rows))]


def _check_target(results: Path, out: Path, options: ReportOptions) -> None:
    """Refuse to write over the results, or without ``force`` over what is no report.

    Raises:
        ConfigError: Naming the file that would be lost.
    """
    from deploy.reporting.page import STARTS
    from trueint8.errors import ConfigError

    if not out.exists():
        return
    inputs = {"results": results}
    inputs |= {n: Path(f) for n, f in (("load", options.load), ("tasks", options.tasks)) if f}
    for name in (n for n, file in inputs.items() if file.exists() and out.samefile(file)):
        raise ConfigError(
            f"-o {out} is the {name} file itself",
            fix=f"pass another file: -o report.{options.format}",
        )
    with out.open("rb") as stream:
        start = stream.read(1024).decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if start and not start.lower().startswith(STARTS[options.format]) and not options.force:
        what = "HTML file" if options.format == "html" else f"{options.format} report"
        raise ConfigError(
            f"{out} exists and is no {what}", fix="pass another -o, or --force to replace it"
        )


COMMAND = command_from_options(ReportOptions, run, help=HELP)
