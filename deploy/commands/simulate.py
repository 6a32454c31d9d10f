"""``deploy simulate``: accuracy with fewer or more bits than INT8."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from deploy.commands.sensitivity import EvaluationOptions
from deploy.options import argument, command_from_options, option, print_json

HELP = """Evaluate bundles with weights, activations or attention logits at any width, 2 to 16 bits.

Everything is SIMULATED: values are rounded as integers of that width would hold them, arithmetic
is FP32, and nothing is said of speed. Widths are lists with commas, in which float leaves that
part as it is; every combination is evaluated. The matmuls are those that the bundle quantizes,
with its ranges; weights are rounded to the nearest, and biases are not corrected. Logits are the
scaled product of queries and keys before the mask, rounded with a scale of their own in each call:
their largest magnitude over 2^(bits-1) - 1. -o is bit-widths.jsonl unless given.

\b
Examples:
  deploy simulate opt-int8 --data eval.txt --logits-bits 16,8,6,4
  deploy simulate vanilla-int8 differential-int8 --data eval.txt --logits-bits 8,6,4
  deploy simulate bert-int8 --data eval.txt --weights-bits 8,4 --activation-bits float,8,6
"""


@dataclasses.dataclass(frozen=True, slots=True)
class SimulateOptions(EvaluationOptions):
    """Everything ``deploy simulate`` can be told."""

    bundles: tuple[str, ...] = argument((), metavar="BUNDLE...", many=True)
    weights_bits: str | None = option(help="Widths of weights.  [default: float]")
    activation_bits: str | None = option(
        help="Widths of what the quantized matmuls read.  [default: float]"
    )
    logits_bits: str | None = option(help="Widths of attention logits.  [default: float]")
    out: str = option("bit-widths.jsonl", short="-o", help="What to write.")


def run(options: SimulateOptions) -> None:
    """Simulate, write the file, and print the table."""
    from deploy.search.bit_widths import SweepRequest, bits_from_text, sweep
    from trueint8.progress import progress_for

    request = SweepRequest(
        profile=options.request(options.bundles),
        weights=bits_from_text("--weights-bits", options.weights_bits),
        activations=bits_from_text("--activation-bits", options.activation_bits),
        logits=bits_from_text("--logits-bits", options.logits_bits),
        out=Path(options.out),
        force=options.force,
    )
    entries = sweep(request, progress_for(quiet=options.quiet))
    if options.json:
        print_json([entry.model_dump(by_alias=True, mode="json") for entry in entries])
    elif not options.quiet:
        click.echo(_table(entries))
        click.echo(f"{options.out}: {len(entries)} settings over {entries[0].sequences} sequences")


def _table(entries: list[Any]) -> str:
    width = max(len("bundle"), *(len(e.bundle) for e in entries))
    metric, unit = entries[0].metric, entries[0].drop_unit
    lines = [
        f"{'bundle':<{width}}  weights  activations  logits  {metric:>10}  drop, {unit} (95 %)"
    ]
    for e in entries:
        bits = (e.weights_bits, e.activation_bits, e.logits_bits)
        w, a, z = ("float" if b is None else str(b) for b in bits)
        drop = f"{e.drop.value:+.3f} ({e.drop.low:+.3f} to {e.drop.high:+.3f})"
        lines.append(
            f"{e.bundle:<{width}}  {w:>7}  {a:>11}  {z:>6}  {e.value:>10.4f}  {drop:<30} [{e.kind}]"
        )
    return "\n".join(lines)


COMMAND = command_from_options(SimulateOptions, run, help=HELP)
