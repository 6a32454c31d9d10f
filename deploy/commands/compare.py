"""``deploy compare``: two engines side by side."""

from __future__ import annotations

import dataclasses

import click

from deploy.options import argument, command_from_options, option, print_json

HELP = """Set two engines side by side, layer by layer: precision, kernel and time of each.

A and B are bundles. BUNDLE@ENGINE picks an engine of a bundle, the first one otherwise, and
BUNDLE@ENGINE:float-fp32 one of its float configurations. Kernels of what runs here are timed in
alternating runs of A's golden inputs; timing slows them, so this is where time goes, and no
verdict on latency. `≠` marks layers that run in different precisions.

\b
Examples:
  deploy compare bert-int8@openvino bert-int8@onnxruntime --layers
  deploy compare bert-int8@openvino bert-int8@openvino:float-fp32 --layers
"""


@dataclasses.dataclass(frozen=True, slots=True)
class CompareOptions:
    """Everything ``deploy compare`` can be told."""

    sides: tuple[str, ...] = argument((), metavar="A B", many=True)
    layers: bool = option(False, type=bool, help="Compare layer by layer.")
    json: bool = option(False, type=bool, help="Print both audits as JSON.")


def run(options: CompareOptions) -> None:
    """Audit and time both sides and print them layer by layer."""
    from trueint8.errors import ConfigError

    if len(options.sides) != 2:
        raise ConfigError(
            f"{len(options.sides)} sides given; a comparison has two",
            fix="deploy compare BUNDLE@ENGINE BUNDLE@ENGINE --layers",
        )
    if not options.layers:
        raise ConfigError(
            "engines are compared layer by layer, and --layers was not given",
            fix="pass --layers; for whole latencies with intervals, run `deploy profile`",
        )
    from deploy.audit_text import plain
    from deploy.layers import audit_sides, layer_lines, open_side

    sides = [open_side(text) for text in options.sides]
    audits = audit_sides(sides)
    if options.json:
        names = [side.label for side in sides]
        print_json([{"side": n, **plain(a)} for n, a in zip(names, audits, strict=True)])
        return
    for line in layer_lines(sides, audits):
        click.echo(line)


COMMAND = command_from_options(CompareOptions, run, help=HELP)
