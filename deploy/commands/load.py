"""``deploy load``: how much load a server holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.options import argument, command_from_options, option, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.loading.rows import LoadRow
    from deploy.loading.testing import LoadRequest

HELP = """Load a server of the Open Inference Protocol v2 (HTTP) until its 99th percentile breaks.

Requests are due at the times of a Poisson process and are sent whether or not earlier ones were
answered; latency counts from when a request was due, and one without an answer counts as --timeout.
Rates rise by --growth until the 99th percentile is above --p99-ms: what the server holds is between
the last two. A rate takes --rounds times --round-s for each URL, longer where that would be too few
requests for the percentile. The mean batch, the wait in the queue and the time of an execution come
from the server's own metrics (deploy serve, Triton).

A URL is a server's, http://HOST:PORT, or one model's of it, http://HOST:PORT/v2/models/NAME. With
several they are loaded in turn at the same rates with the same arrivals, and each is compared with
the first: float and INT8 of a bundle, behind two servers or behind one. --results, a file of
`deploy profile`, puts the speed-up without a server beside it; Triton does not say what its models
are, so there it needs --repo too, the repository that Triton serves.

perf_analyzer, where it is on PATH and the server is Triton, measures the highest rate that held.

\b
Examples:
  deploy load http://127.0.0.1:8000 --p99-ms 50
  deploy load http://127.0.0.1:8000 --model bert-int8-text --data texts.txt
  deploy load http://127.0.0.1:8001 http://127.0.0.1:8000 --results results.jsonl -o load.jsonl
  deploy load localhost:8000/v2/models/bert-float localhost:8000/v2/models/bert-int8 --repo repo
  deploy report results.jsonl --load load.jsonl -o report.html
"""


@dataclasses.dataclass(frozen=True, slots=True)
class LoadOptions:
    """Everything ``deploy load`` can be told."""

    urls: tuple[str, ...] = argument((), metavar="URL...", many=True)
    out: str = option("load.jsonl", short="-o", help="Results file, one JSON object per line.")
    model: str | None = option(
        help="Model of URLs that name none.  [default: the first that the server lists]"
    )
    data: str | None = option(
        help="Lines to send, as for `deploy run`: .jsonl with every input, or .txt to models of "
        "texts.  [default: drawn]"
    )
    rows: int = option(1, type=click.IntRange(1), help="Rows of a drawn request.")
    seq_len: int = option(32, type=click.IntRange(1), help="Tokens of a drawn row.")
    p99_ms: float = option(100.0, type=float, help="What the 99th percentile of latency may be.")
    rate: float = option(10.0, type=float, help="First rate, requests per second.")
    growth: float = option(1.5, type=float, help="Each rate is so many times the one before.")
    most_rate: float = option(10_000.0, type=float, help="No rate is above it.")
    rounds: int = option(5, type=int, help="Rounds per rate and server; at least 3.")
    round_s: float = option(3.0, type=float, help="Aim for one round, in seconds.")
    timeout: float = option(10.0, type=float, help="A request is given up after so many seconds.")
    metrics_url: tuple[str, ...] = option(
        help="Where the server's counters are, once per URL, or once if all URLs are of one server;"
        " Triton's are at port 8002.  [default: /metrics of each]",
        many=True,
    )
    repo: str | None = option(
        help="Repository that Triton serves: says which bundle, engine and graph its models are."
    )
    token_file: str | None = option(help="File with the token that the servers want.")
    results: str | None = option(help="Results of `deploy profile`, for the offline speed-up.")
    no_perf_analyzer: bool = option(False, type=bool, help="Do not run perf_analyzer.")
    seed: int = option(0, type=int, help="Seed of arrivals and drawn requests.")
    force: bool = option(False, type=bool, help="Replace an existing results file.")
    json: bool = option(False, type=bool, help="Print figures as JSON.")
    quiet: bool = option(False, type=bool, help="Print errors only.")


def run(options: LoadOptions) -> None:
    """Load the servers, write the rows, and print the figures."""
    import asyncio

    from deploy.loading.rows import write_load
    from deploy.profiling.results import check_writable, read_results
    from trueint8.errors import ConfigError, MissingDependency
    from trueint8.progress import progress_for

    out = Path(options.out)
    if not options.urls:
        raise ConfigError("no URL given", fix="deploy load http://127.0.0.1:8000")
    check_writable(out)
    if out.exists() and not options.force:
        raise ConfigError(f"{out} exists", fix="pass another -o, or --force to replace it")
    results = read_results(Path(options.results)) if options.results else []
    try:
        from deploy.loading.testing import load_test
    except ImportError as err:
        raise MissingDependency(
            f"load tests need {err.name}, which is not installed",
            fix="pip install 'trueint8[load]'",
        ) from err
    request = _request(options)
    shown = options.quiet or options.json
    progress = progress_for(quiet=options.quiet)
    rows = asyncio.run(load_test(request, progress, (lambda _: None) if shown else _print_row))
    write_load(out, rows)
    _print(options, rows, results)


def _request(options: LoadOptions) -> LoadRequest:
    from deploy.loading.payloads import Asked
    from deploy.loading.testing import LoadRequest, plan_from
    from deploy.serving.token import read_token

    token = read_token(options.token_file)
    plan = plan_from(
        {
            "first_per_s": options.rate,
            "growth": options.growth,
            "most_per_s": options.most_rate,
            "objective_ms": options.p99_ms,
            "rounds": options.rounds,
            "round_s": options.round_s,
            "timeout_s": options.timeout,
            "seed": options.seed,
        }
    )
    data = Path(options.data) if options.data else None
    return LoadRequest(
        urls=options.urls,
        model=options.model,
        metrics=options.metrics_url,
        headers={"Authorization": f"Bearer {token.decode()}"} if token else {},
        asked=Asked(data, options.rows, options.seq_len, options.seed),
        plan=plan,
        second_opinion=not options.no_perf_analyzer,
        repository=Path(options.repo) if options.repo else None,
    )


def _print_row(row: LoadRow) -> None:
    from deploy.loading.telling import row_line
    from deploy.reporting.document import printable

    click.echo(printable(row_line(row)))


def _print(options: LoadOptions, rows: Sequence[LoadRow], results: Sequence[Any]) -> None:
    from deploy.loading.telling import plain_figures, summary_lines
    from deploy.reporting.document import printable

    if options.json:
        print_json(plain_figures(rows, results))
    elif not options.quiet:
        for line in summary_lines(rows, results):
            click.echo(printable(line))
        click.echo(f"{options.out}: {len(rows)} rows")


COMMAND = command_from_options(LoadOptions, run, help=HELP)
