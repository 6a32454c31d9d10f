"""``deploy ledger``: why there is no speed-up, from the hardware's ceiling to the latency."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from deploy.options import argument, command_from_options, option, print_json

HELP = """Show where the time between the hardware's ceiling and the latency goes.

The ceiling of each configuration is PREDICTED from what this machine was measured to offer, by
large matmuls in every precision and by copies, and from the multiply-accumulates and bytes of
the graph. What the kernels take beyond it is split into parts, each from its own measurement;
what is left is unexplained and gets no cause. Speed-ups that were PREDICTED, SIMULATED and
MEASURED stand side by side.

Calls with and without kernel times are interleaved. --into adds the ledgers to the rows of a
results file, for `deploy report`.

\b
Examples:
  deploy ledger bert-int8
  deploy ledger bert-int8 --engine openvino --shapes input_ids:1x128 --json
  deploy ledger bert-int8 --rounds 15 --into results.jsonl
"""


@dataclasses.dataclass(frozen=True, slots=True)
class LedgerOptions:
    """Everything ``deploy ledger`` can be told."""

    bundle: str | None = argument(metavar="BUNDLE")
    engine: str | None = option(
        help="Only these engines, joined by commas.  [default: all that run here]"
    )
    shapes: str | None = option(
        help="Shapes of inputs, such as input_ids:8x128.  [default: those of the bundle]"
    )
    rounds: int = option(7, type=int, help="Interleaved rounds; at least 3.")
    round_ms: float = option(150.0, type=float, help="Aim for one session's round, in ms.")
    threads: int | None = option(type=int, help="Threads of engines and probes.  [default: all]")
    into: str | None = option(help="Results file whose rows of this bundle get the ledgers.")
    json: bool = option(False, type=bool, help="Print the ledgers as JSON.")
    quiet: bool = option(False, type=bool, help="Print errors only.")


def run(options: LedgerOptions) -> None:
    """Account for every configuration of the bundle's engines and print a table of each engine."""
    from deploy.bundle import open_bundle
    from deploy.graph_shapes import parse_shapes
    from deploy.ledger.accounting import LedgerRequest, account
    from deploy.ledger.eligible import why_not
    from deploy.ledger.record import Ledger
    from deploy.ledger.storing import add_to_results, check_holds
    from deploy.ledger.text import ledger_lines
    from trueint8.errors import ConfigError
    from trueint8.progress import progress_for

    if options.bundle is None:
        raise ConfigError("no bundle given", fix="deploy ledger BUNDLE")
    bundle = open_bundle(Path(options.bundle))
    if options.into is not None:
        check_holds(Path(options.into), bundle.sha256)
    request = LedgerRequest(
        bundle=bundle,
        engines=[e.strip() for e in (options.engine or "").split(",") if e.strip()],
        shapes=parse_shapes(options.shapes or ""),
        rounds=options.rounds,
        round_ms=options.round_ms,
        threads=options.threads,
    )
    text = not (options.json or options.quiet)
    found: list[Ledger] = []
    for ledgers in account(request, progress_for(quiet=options.json or options.quiet)):
        found += ledgers
        for line in [*ledger_lines(ledgers), ""] if text else ():
            click.echo(line)
    if options.json:
        print_json([ledger.model_dump(mode="json") for ledger in found])
    for name in bundle.manifest.engines if text and not request.engines else ():
        if name not in {ledger.engine for ledger in found}:
            reason = why_not(bundle, name) or "--shapes does not fit it; --engine says why"
            click.echo(f"no ledger of {name}: {reason}")
    if options.into is not None:
        count = add_to_results(Path(options.into), bundle.sha256, found)
        if text:
            click.echo(f"{options.into}: {count} rows with ledgers")


COMMAND = command_from_options(LedgerOptions, run, help=HELP)
