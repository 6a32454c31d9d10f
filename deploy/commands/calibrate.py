"""``deploy calibrate``: activation ranges in one pass, resumable and mergeable."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from deploy.options import TASK, argument, command_from_options, option, print_json

HELP = """Run the float model over calibration data once, and write ranges.safetensors and a table.

The file holds each tensor's statistics, so that any estimator can be applied to it later:
`deploy build --ranges FILE --calib mse`. A run that was killed goes on where it stopped. To
calibrate on several machines, give each a part of the data and the same ONNX file, and join what
they wrote with --merge. -o is ranges.safetensors unless given.

\b
Examples:
  deploy calibrate ./bert-base --calib mse --calib-data wiki.txt -o ranges.safetensors
  deploy calibrate model.onnx --calib-data part1.npz --calib-samples 4096 -o part1.safetensors
  deploy calibrate --merge part1.safetensors part2.safetensors -o ranges.safetensors
  deploy build model.onnx --int8 --ranges ranges.safetensors --calib-data part1.npz
"""


@dataclasses.dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """What ``deploy calibrate`` and ``deploy build`` share, but for the model."""

    calib: str | None = option(
        help="Estimator: minmax, running-minmax, percentile, mse or entropy.  [default: minmax]"
    )
    percentile: float | None = option(
        type=float,
        help="Percent of |x| that --calib percentile covers, 0 < q <= 100; without --calib it "
        "means that estimator.  [default: 99.99]",
    )
    calib_data: str | None = option(
        help="Calibration data: .txt, .jsonl, .npz of arrays named as the inputs, a folder of "
        "such, or a folder of images."
    )
    calib_samples: int = option(128, type=int, help="Sequences to calibrate on.")
    batch_size: int = option(8, type=int, help="Sequences per batch.")
    seq_len: int | None = option(
        type=int, help="Tokens per sequence.  [default: 128, or fewer if the model has fewer]"
    )
    out: str | None = option(short="-o", help="What to write.")
    task: str | None = option(
        type=TASK,
        help="What the model is for.  [default: as the checkpoint says]",
    )
    tokenizer: str | None = option(help="Tokenizer folder, if it is not beside the model.")
    allow_pickle: bool = option(
        False, type=bool, help="Load pickle weights (weights_only=True) if there are no others."
    )
    trust_remote_code: bool = option(
        False, type=bool, help="Run the Python files that come with the checkpoint."
    )
    seed: int = option(0, type=int, help="Seed of sampling and golden inputs.")
    force: bool = option(False, type=bool, help="Replace what is at -o.")
    json: bool = option(False, type=bool, help="Print the result as JSON.")
    quiet: bool = option(False, type=bool, help="Print errors only.")


@dataclasses.dataclass(frozen=True, slots=True)
class CalibrateOptions(CalibrationOptions):
    """Everything ``deploy calibrate`` can be told."""

    given: tuple[str, ...] = argument((), metavar="[MODEL] [FILES...]", many=True)
    merge: bool = option(False, type=bool, help="Join FILES that other runs wrote.")


def run(options: CalibrateOptions) -> None:
    """Calibrate or merge, and print the table."""
    from calib.ranges import table_rows
    from deploy.calibrating import calibrate, merge_files
    from deploy.planning import calibration_plan
    from trueint8.errors import ConfigError
    from trueint8.progress import progress_for

    out = Path(options.out or "ranges.safetensors")
    progress = progress_for(quiet=options.quiet)
    if options.merge:
        ranges = merge_files([Path(f) for f in options.given], out, force=options.force)
    elif len(options.given) > 1:
        raise ConfigError(
            f"one model is calibrated at a time, not {len(options.given)}",
            fix="pass one MODEL, or --merge to join files that other runs wrote",
        )
    else:
        with progress.step("read model and data"):
            plan = calibration_plan(options.given[0] if options.given else None, options)
        ranges = calibrate(plan, out, force=options.force, progress=progress)
    if options.quiet and not options.json:
        return
    rows = table_rows(ranges)
    if options.json:
        print_json(
            {
                "ranges": str(out),
                "graph": ranges.graph,
                "estimator": dataclasses.asdict(ranges.estimator),
                "data": [dataclasses.asdict(d) for d in ranges.data],
                "kind": "SIMULATED",
                "tensors": [dataclasses.asdict(r) for r in rows],
            }
        )
    else:
        click.echo(_table(rows))
        click.echo(_summary(ranges, out))


def _table(rows: list[Any]) -> str:
    width = max(len(r.tensor) for r in rows)
    heads = ("min", "max", "threshold")
    lines = [f"{'tensor':<{width}} " + "".join(f" {h:>10}" for h in heads) + "   clipped  SQNR dB"]
    for r in rows:
        share = f"{100 * r.clipped:.4f} %" if r.clipped else "none"
        lines.append(
            f"{r.tensor:<{width}}  {r.minimum:>10.4g} {r.maximum:>10.4g} {r.high:>10.4g} "
            f"{share:>9} {r.sqnr_db:>8.2f}"
        )
    return "\n".join(lines)


def _summary(ranges: Any, out: Path) -> str:
    samples = sum(d.samples for d in ranges.data)
    batches = sum(d.batches for d in ranges.data)
    options = "".join(f" {value:g}" for value in ranges.estimator.options.values())
    return (
        f"{out}: {len(ranges.stats)} activations over {samples} sequences in {batches} batches, "
        f"{ranges.estimator.name}{options}; SQNR of 8 bits, from the histogram [SIMULATED]\n"
        f"next: deploy build MODEL --int8 --ranges {out} --calib-data DATA"
    )


COMMAND = command_from_options(CalibrateOptions, run, help=HELP)
