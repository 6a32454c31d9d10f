"""``deploy reconcile``: modules, Q/DQ graph and engine on identical samples, layer by layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.commands.sensitivity import EvaluationOptions
from deploy.options import argument, command_from_options, option, print_json

if TYPE_CHECKING:
    from deploy.bundle import Bundle
    from deploy.profiling.evaluation import EvaluationSet
    from deploy.reconciliation.closeness import Closeness
    from deploy.reconciliation.outcome import ArmScore, LayerRow, Reconciliation

HELP = """Compare fake-quantized modules, the Q/DQ graph and an engine, and name where they part.

Three arms run the same samples: the checkpoint's modules with fake quantization (where the bundle
holds torch-int8), the Q/DQ graph in float arithmetic, and the engine's own files. Every layer's
result and every output is compared by SQNR, cosine and largest error; outputs also by the share of
top-1 decisions that flip and, with --data, by the task's metric with a paired 95 % interval.

A layer parts if its result is farther from what the Q/DQ graph computes, from the arm's own results
of the layers before it, than min(noise + 6 dB, repeat - 3 dB, 60 in FP32 or 30 in FP16 or 25 in
BF16): noise is what quantization does in that layer alone, repeat how near the Q/DQ graph comes to
itself in another order of operations. Error from earlier layers is on both sides, so it is the
layer at fault that is named, in the graph's order; a fault in a layer that is not seen is named at
the next that is. The exit code is 1 if one is.

\b
Examples:
  deploy reconcile bert-int8
  deploy reconcile bert-int8 --engine onnxruntime --data eval.txt --json
"""


@dataclasses.dataclass(frozen=True, slots=True)
class ReconcileOptions(EvaluationOptions):
    """Everything ``deploy reconcile`` can be told."""

    bundle: str | None = argument(metavar="BUNDLE")
    engine: str | None = option(help="The engine to look into.  [default: the first that can be]")
    data: str | None = option(
        help="Evaluation data: .txt, .jsonl, .npz, or a folder.  [default: the golden inputs]"
    )


def run(options: ReconcileOptions) -> None:
    """Compare, print one line per layer, and exit 1 if one parts."""
    from deploy.bundle import open_bundle
    from deploy.reconciliation.arms import chosen_engine
    from deploy.reconciliation.outcome import ENGINE, TORCH
    from deploy.reconciliation.reconciling import reconcile
    from trueint8.errors import ConfigError
    from trueint8.progress import progress_for

    if options.bundle is None:
        raise ConfigError("no bundle given", fix="deploy reconcile BUNDLE")
    bundle = open_bundle(Path(options.bundle))
    name = chosen_engine(bundle, options.engine)
    data = _data(options, bundle)
    found = reconcile(bundle, name, data, progress_for(quiet=options.quiet))
    if options.json:
        print_json(_plain(found))
    elif not options.quiet:
        for line in _lines(found):
            click.echo(line)
    parted = [(arm, found.parted(arm)) for arm in (ENGINE, TORCH) if found.parted(arm)]
    for arm, layers in parted:
        who = found.engine if arm == ENGINE else "torch fake-quantization"
        click.echo(
            f"{who} parts from the Q/DQ graph at {layers[0]}"
            + (f", and at {len(layers) - 1} layers after it" if layers[1:] else "")
            + f"; build it again: {bundle.manifest.command}",
            err=True,
        )
    if parted:
        raise click.exceptions.Exit(1)


def _data(options: ReconcileOptions, bundle: Bundle) -> EvaluationSet | None:
    from deploy.options import check_counts
    from deploy.profiling.measurement import evaluation_data

    if options.data is None:
        return None
    request = options.request([str(bundle.path)])
    check_counts(request, ("samples", "batch_size", "seq_len"))
    return evaluation_data(request, bundle)


def _plain(found: Reconciliation) -> dict[str, Any]:
    layers = [
        {
            "layer": row.layer,
            "pairs": {pair: dataclasses.asdict(c) for pair, c in row.pairs.items()},
            "alone": {
                arm: {
                    **dataclasses.asdict(check),
                    "required_db": check.required_db,
                    "parts": check.parts,
                    "kind": found.kinds[arm],
                }
                for arm, check in row.checks.items()
            },
        }
        for row in found.layers
    ]
    parted = {arm: found.parted(arm) for arm in found.notes}
    return {
        **dataclasses.asdict(found),
        "layers": layers,
        "parted": parted,
        "first": {arm: names[0] if names else None for arm, names in parted.items()},
    }


def _lines(found: Reconciliation) -> Iterator[str]:
    rest = found.rest.upper()
    yield f"{found.engine} ({found.configuration}, rest {rest}), {found.samples} samples"
    for arm, note in found.notes.items():
        yield f"  {arm}: {note}"
    kind = found.kinds["engine"]
    yield f"  outputs with taps to those without: {found.tapped_db:.1f} dB  [{kind}]"
    for arm, why in found.absent.items():
        yield f"  {arm}: absent, {why}"
    for output, pairs in found.outputs.items():
        for pair, figures in pairs.items():
            yield f"  {output}, {pair}: {_closeness(figures)}"
    for score in found.scores:
        yield f"  {_score(score, found)}"
    yield from _table(found)
    for arm in found.notes:
        layers = found.parted(arm)
        told = f"first parts from the Q/DQ graph at {layers[0]}" if layers else "parts at no layer"
        more = f" (and at {', '.join(layers[1:4])})" if layers[1:] else ""
        unseen = len(found.unseen[arm])
        inside = f"; {unseen} layers have no result of their own to see" if unseen else ""
        yield f"{arm}: {told}{more}{inside}  [{found.kinds[arm]}]"


def _closeness(c: Closeness) -> str:
    flips = f", top-1 flips {c.flips:.2%} of {c.positions}" if c.flips is not None else ""
    return (
        f"SQNR {c.sqnr_db:.1f} dB, cosine {c.cosine:.6f}, largest error {c.largest:.3g}{flips}  "
        f"[{c.kind}]"
    )


def _score(score: ArmScore, found: Reconciliation) -> str:
    told = f"{found.metric} of {score.arm} {score.value:.4f}"
    for lost, to in ((score.lost, "float"), (score.lost_to_simulated, "simulated")):
        if lost is not None:
            told += (
                f", loses {lost.value:+.3f} ({lost.low:+.3f} to {lost.high:+.3f}) "
                f"{found.drop_unit} to {to}"
            )
    if score.mcnemar is not None:
        told += f", McNemar p {score.mcnemar:.3g}"
    return f"{told}  [{score.kind}]"


def _table(found: Reconciliation) -> Iterator[str]:
    arms = list(found.notes)
    width = max(len("layer"), *(len(row.layer) for row in found.layers))
    heads = [f"{arm} alone, dB (needed)" for arm in arms]
    pairs = list(dict.fromkeys(pair for row in found.layers for pair in row.pairs))
    titles = "  ".join(f"{h:>24}" for h in heads) + "  " + "  ".join(f"{p:>16}" for p in pairs)
    kinds = ", ".join(f"{arm} [{kind}]" for arm, kind in found.kinds.items())
    yield f"SQNR by layer in dB; {kinds}"
    yield f"{'layer':<{width}}  {titles}"
    for row in found.layers:
        yield f"{row.layer:<{width}}  {_cells(row, arms, pairs)}"


def _cells(row: LayerRow, arms: list[str], pairs: list[str]) -> str:
    cells = []
    for arm in arms:
        check = row.checks.get(arm)
        mark = " PARTS" if check and check.parts else ""
        told = f"{check.sqnr_db:.1f} ({check.required_db:.1f}){mark}" if check else "-"
        cells.append(f"{told:>24}")
    for pair in pairs:
        figures = row.pairs.get(pair)
        cells.append(f"{figures.sqnr_db:>16.1f}" if figures else f"{'-':>16}")
    return "  ".join(cells)


COMMAND = command_from_options(ReconcileOptions, run, help=HELP)
