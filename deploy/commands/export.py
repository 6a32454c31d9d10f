"""``deploy export``: a trained model to checked ONNX files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from deploy.options import TASK, argument, command_from_options, option, print_json

HELP = """Export a model to ONNX and compare it with torch on several batches, lengths and paddings.

MODEL is a Hugging Face checkpoint folder, a hub id, or package.module:function, which returns a
torch.nn.Module. Batch and sequence are dynamic. With --kv-cache a decoder becomes two graphs:
prefill.onnx, and decode.onnx for one token after the other, each with an .npz of samples, on which
`deploy build` and `deploy profile` take either apart. `deploy build` exports by itself; this
is for other runtimes, and for FP16. The float inputs and outputs of an FP16 graph are FP16.

\b
Examples:
  deploy export ./bert-base -o bert-onnx
  deploy export ./opt-125m --kv-cache --data wiki.txt -o opt-onnx
  deploy export ./vit --precision fp16 --opset 19 -o vit-onnx
  deploy export my_package.model:make --data inputs.npz -o mine-onnx
"""


@dataclasses.dataclass(frozen=True, slots=True)
class ExportOptions:
    """Everything ``deploy export`` can be told."""

    model: str | None = argument(metavar="MODEL")
    out: str | None = option(short="-o", help="Folder to write.  [default: onnx/MODEL]")
    precision: str = option(
        "fp32",
        type=click.Choice(["fp32", "fp16"]),
        help="Of weights and activations. Half-precision variants keep what needs FP32.",
    )
    kv_cache: bool = option(False, type=bool, help="Write prefill and decode graphs of a decoder.")
    opset: int = option(20, type=click.IntRange(18, 23), help="Of the graphs.")
    data: str | None = option(
        help="Samples to compare with torch on.  [default: drawn token ids or pixels]"
    )
    seq_len: int | None = option(
        type=click.IntRange(8), help="Tokens per sample.  [default: 128, or the model's if fewer]"
    )
    task: str | None = option(type=TASK, help="What the model is for.  [default: as it says]")
    tokenizer: str | None = option(help="Tokenizer folder, if it is not beside the model.")
    allow_pickle: bool = option(
        False, type=bool, help="Load pickle weights (weights_only=True) if there are no others."
    )
    trust_remote_code: bool = option(
        False, type=bool, help="Run the Python files that come with the checkpoint."
    )
    seed: int = option(0, type=int, help="Seed of the samples.")
    force: bool = option(False, type=bool, help="Replace what is at -o.")
    json: bool = option(False, type=bool, help="Print the record as JSON.")
    quiet: bool = option(False, type=bool, help="Print errors only.")


def run(options: ExportOptions) -> None:
    """Export and say what was written."""
    from deploy.exporting import ExportRequest, export_model
    from export.source import source_from_argument
    from trueint8.errors import ConfigError, DataError
    from trueint8.progress import progress_for

    if options.model is None:
        raise ConfigError("no model given", fix="deploy export MODEL")
    data = Path(options.data).expanduser() if options.data else None
    if data is not None and not data.exists():
        raise DataError(f"no data at {data}", fix="check --data")
    source = source_from_argument(
        options.model,
        task=options.task,  # type: ignore[arg-type]
        tokenizer=options.tokenizer,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
    )
    if source.kind == "onnx":
        raise ConfigError(
            f"{source.path} is an ONNX file already", fix=f"deploy build {source.path} --int8"
        )
    request = ExportRequest(
        source=source,
        out=Path(options.out or Path("onnx") / source.name),
        data=data,
        half=options.precision == "fp16",
        cache=options.kv_cache,
        opset=options.opset,
        sequence=options.seq_len,
        allow_pickle=options.allow_pickle,
        seed=options.seed,
        force=options.force,
    )
    record = export_model(request, progress_for(quiet=options.quiet))
    if options.json:
        print_json({"folder": str(request.out), **record})
    elif not options.quiet:
        click.echo(_summary(request.out, record))


def _summary(out: Path, record: dict[str, Any]) -> str:
    parity = record["parity"]
    lines = [
        f"{out}: {record['attention']} attention, {record['precision'].upper()}, "
        f"opset {record['opset']}, {record['seconds']} s, peak memory {record['peak_mib']:,} MiB",
        f"  parity with torch in FP32: {parity['relative_error']:.1e} of the largest output "
        f"(tolerance {parity['tolerance']:.0e}), samples: {parity['samples']}",
    ]
    for name, graph in record["graphs"].items():
        lines.append(f"  {name}: {sum(graph['operators'].values())} nodes")
        for side in ("inputs", "outputs"):
            shown = [f"{key} {text}" for key, text in graph[side].items()]
            rest = f", and {len(shown) - 3} more" if len(shown) > 4 else ""
            lines.append(f"    {side}: {', '.join(shown[:3] if rest else shown)}{rest}")
    return "\n".join(lines)


COMMAND = command_from_options(ExportOptions, run, help=HELP)
