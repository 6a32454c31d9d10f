"""``deploy sensitivity``: which matmuls cost accuracy when they are quantized."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.options import argument, command_from_options, option, print_json

if TYPE_CHECKING:
    from deploy.profiling.measurement import ProfileRequest

HELP = """Rank the quantized matmuls of a bundle by what each does to the task's metric.

Two figures per matmul: the drop with it alone in INT8, and what is recovered with it alone back
in float, each with a 95 % interval over resampled sequences. The drop is percent of perplexity,
points of accuracy, or points of cosine to the float model's outputs where there are no labels.
Nothing is calibrated again: matmuls of the bundle's Q/DQ graph go back to float one by one.

Without --engine the graphs run in FP32 arithmetic (SIMULATED), which is the same on any machine;
with it, each is built and run on that engine (MEASURED). A run that was killed goes on where it
stopped. -o is sensitivity.json unless given.

\b
Examples:
  deploy sensitivity bert-int8 --data eval.txt
  deploy sensitivity bert-int8 --data eval.jsonl --engine openvino --samples 256 -o ranking.json
"""


@dataclasses.dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What ``deploy sensitivity`` and ``deploy simulate`` share."""

    data: str | None = option(help="Evaluation data: .txt, .jsonl, .npz, or a folder of such.")
    samples: int = option(64, type=int, help="Sequences to evaluate on.")
    batch_size: int = option(8, type=int, help="Sequences per inference.")
    seq_len: int | None = option(type=int, help="Tokens per sequence.  [default: as calibrated]")
    seed: int = option(0, type=int, help="Seed of sampling and masking.")
    force: bool = option(False, type=bool, help="Replace what is at -o.")
    json: bool = option(False, type=bool, help="Print the result as JSON.")
    quiet: bool = option(False, type=bool, help="Print errors only.")

    def request(self, bundles: Sequence[str]) -> ProfileRequest:
        """Return what is to be evaluated.

        Raises:
            ConfigError: If no data is given.
        """
        from deploy.profiling.measurement import ProfileRequest
        from trueint8.errors import ConfigError

        if self.data is None:
            raise ConfigError(
                "accuracy needs evaluation data, and none was given",
                fix="pass --data with text or arrays that were not used for calibration",
            )
        return ProfileRequest(
            [Path(b) for b in bundles],
            Path(self.data),
            samples=self.samples,
            batch_size=self.batch_size,
            seq_len=self.seq_len,
            seed=self.seed,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class SensitivityOptions(EvaluationOptions):
    """Everything ``deploy sensitivity`` can be told."""

    bundle: str | None = argument(metavar="BUNDLE")
    engine: str | None = option(help="Measure on this engine of the bundle instead of simulating.")
    out: str = option("sensitivity.json", short="-o", help="What to write.")


def run(options: SensitivityOptions) -> None:
    """Rank, write the file, and print the table."""
    from deploy.search.sensitivity import SensitivityRequest, measure_sensitivity
    from trueint8.progress import progress_for

    bundles = [options.bundle] if options.bundle is not None else []
    request = SensitivityRequest(
        options.request(bundles), options.engine, Path(options.out), options.force
    )
    report = measure_sensitivity(request, progress_for(quiet=options.quiet))
    if options.json:
        print_json(report.model_dump(by_alias=True, mode="json"))
    elif not options.quiet:
        click.echo(_table(report))
        click.echo(_summary(report, options.out))


def _table(report: Any) -> str:
    width = max(len("matmul"), *(len(layer.matmul) for layer in report.layers))
    total = sum(layer.macs for layer in report.layers) or 1
    unit = report.drop_unit
    heads = (f"left in float, recovers {unit}", f"alone in INT8, costs {unit}")
    lines = [f"{'matmul':<{width}}  {'MACs':>6}  {heads[0]:>30}  {heads[1]:>30}"]
    for layer in report.layers:
        figures = "  ".join(f"{_shown(f):>30}" for f in (layer.recovered, layer.alone))
        lines.append(f"{layer.matmul:<{width}}  {layer.macs / total:6.1%}  {figures}")
    return "\n".join(lines)


def _shown(figure: Any) -> str:
    return f"{figure.value:+.3f} ({figure.low:+.3f} to {figure.high:+.3f})"


def _summary(report: Any, out: str) -> str:
    first = report.layers[0].matmul
    return (
        f"{report.metric} over {report.sequences} sequences: float {report.float_value:.4f} "
        f"[MEASURED], INT8 {report.int8_value:.4f}, drop {_shown(report.int8_drop)} "
        f"{report.drop_unit}; all figures of INT8 [{report.kind}, {report.engine}]\n"
        f"{out}: {len(report.layers)} matmuls; next: deploy build MODEL --int8 "
        f"--keep-float '{first}'"
    )


COMMAND = command_from_options(SensitivityOptions, run, help=HELP)
