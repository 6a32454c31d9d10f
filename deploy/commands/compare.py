"""``deploy compare``: two engines side by side."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from deploy.options import argument, command_from_options, option, print_json

HELP = """Decide whether B is faster than A, or set them side by side layer by layer.

A and B are bundles. BUNDLE@ENGINE picks an engine of a bundle, the first one otherwise, and
BUNDLE@ENGINE:float-fp32 one of its float configurations. Both sides, and A once more as a
control, are launched in fresh processes again and again and run in turn. The ratio of times has
its 95 % interval; faster, slower or no evidence is decided on the 99 % interval, and only where A
does not differ from itself. The least effect that the run could have found is printed beside it.

A and B may be results of `deploy profile` instead: RESULTS.jsonl, whose rows are compared with
those of the same bundle, engine and configuration, or RESULTS.jsonl@ENGINE:CONFIGURATION and, where
a file has several bundles, RESULTS.jsonl@BUNDLE@ENGINE:CONFIGURATION. Rows of one call are paired;
others are not, and it is said. Unlike machines, versions, data or shapes are refused without
--allow-unlike. The control is then every second launch of A against its others.

With --layers: precision, kernel and time of each layer in alternating runs of A's golden inputs;
timing slows them, so this is where time goes, and no verdict. `≠` marks layers that run in
different precisions.

\b
Examples:
  deploy compare bert-int8@openvino:float-fp32 bert-int8@openvino
  deploy compare bert-int8@openvino bert-int8@onnxruntime --data eval.txt --launches 20
  deploy compare results.jsonl@openvino:float-fp32 results.jsonl@openvino:int8
  deploy compare yesterday.jsonl today.jsonl
  deploy compare bert-int8@openvino bert-int8@onnxruntime --layers
"""


@dataclasses.dataclass(frozen=True, slots=True)
class CompareOptions:
    """Everything ``deploy compare`` can be told."""

    sides: tuple[str, ...] = argument((), metavar="A B", many=True)
    allow_unlike: bool = option(
        False, type=bool, help="Compare results of unlike machines, versions, data or shapes."
    )
    layers: bool = option(False, type=bool, help="Compare layer by layer.")
    data: str | None = option(help="Data whose first batch is run.  [default: golden inputs of A]")
    batch_size: int = option(8, type=int, help="Sequences per batch of --data.")
    seq_len: int | None = option(type=int, help="Tokens per sequence of --data.")
    launches: int = option(10, type=int, help="Fresh processes of each side; at least 4.")
    rounds: int = option(20, type=int, help="Rounds per launch, each in an order drawn anew.")
    round_ms: float = option(15.0, type=float, help="Aim for one side's round, in ms.")
    threads: int | None = option(type=int, help="Threads of both.  [default: all]")
    seed: int = option(0, type=int, help="Seed of all orders.")
    timeout: float = option(600.0, type=float, help="Longest wait for one answer, in seconds.")
    json: bool = option(
        False, type=bool, help="Print figures with raw samples, or both audits, as JSON."
    )
    quiet: bool = option(False, type=bool, help="Print no progress.")


def run(options: CompareOptions) -> None:
    """Compare two sides and print what is known."""
    from deploy.profiling.stored import names_results
    from deploy.sides import open_side
    from trueint8.errors import ConfigError

    if len(options.sides) != 2:
        raise ConfigError(
            f"{len(options.sides)} sides given; a comparison has two",
            fix="deploy compare BUNDLE@ENGINE BUNDLE@ENGINE",
        )
    if any(named := [names_results(text) for text in options.sides]):
        if not all(named):
            raise ConfigError(
                "a results file cannot be compared with a bundle",
                fix="pass two results files, or two bundles",
            )
        _stored(options)
        return
    sides = [open_side(text) for text in options.sides]
    if options.layers:
        _layers(options, sides)
    else:
        _verdict(options, sides)


def _stored(options: CompareOptions) -> None:
    from deploy.profiling.stored import pairs_of_results, plain_pairs, stored_lines

    a, b = options.sides
    pairs = pairs_of_results(a, b, allow_unlike=options.allow_unlike)
    if options.json:
        print_json(plain_pairs(pairs))
        return
    for line in stored_lines(pairs):
        click.echo(line)


def _layers(options: CompareOptions, sides: list[Any]) -> None:
    from deploy.audit_text import plain
    from deploy.layers import audit_sides, layer_lines

    audits = audit_sides(sides)
    if options.json:
        names = [side.label for side in sides]
        print_json([{"side": n, **plain(a)} for n, a in zip(names, audits, strict=True)])
        return
    for line in layer_lines(sides, audits):
        click.echo(line)


def _verdict(options: CompareOptions, sides: list[Any]) -> None:
    from deploy.profiling.contest import Effort
    from deploy.profiling.contest_text import contest_lines, plain_contest
    from deploy.profiling.contesting import Batch, hold_contest
    from trueint8.progress import progress_for

    held = hold_contest(
        sides,
        Batch(options.data, options.batch_size, options.seq_len, options.seed),
        Effort(
            launches=options.launches,
            rounds=options.rounds,
            round_ms=options.round_ms,
            seed=options.seed,
            timeout_s=options.timeout,
        ),
        threads=options.threads,
        progress=progress_for(quiet=options.quiet),
    )
    if options.json:
        print_json(plain_contest(sides, held))
        return
    for line in contest_lines(sides, held):
        click.echo(line)


COMMAND = command_from_options(CompareOptions, run, help=HELP)
