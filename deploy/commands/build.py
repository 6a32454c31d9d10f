"""``deploy build``: a trained model to a bundle with INT8 engines."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from deploy.engine_flags import EngineFlags
from deploy.options import Origin, argument, command_from_options, option, print_json

OURS = "trueint8"
EMBEDDED_TEXT = "text of the Python standard library"

HELP = """Export, calibrate, quantize and build INT8 engines into a bundle folder.

MODEL is a Hugging Face checkpoint folder (families of BERT, OPT, GPT-2, Llama, ViT), a hub id, a
float32 .onnx file, or package.module:function, which returns a torch.nn.Module. What is not on the
line comes from [tool.trueint8] in pyproject.toml or from deploy.yaml in the working folder; with
neither, a small embedded encoder and text of the Python standard library are used, and the first
line says so.

\b
Examples:
  deploy build --int8 --calib percentile
  deploy build ./bert-base --int8 --calib percentile --calib-data wiki.txt -o bert-int8
  deploy build model.onnx --int8 --calib minmax --calib-data calib.npz --engine all
  deploy build my_package.model:make --int8 --calib-data inputs.npz
  deploy build ./opt-125m --int8 --calib-data calib.jsonl --percentile 99.999 --seq-len 256
  deploy build ./bert-base --int8 --ranges ranges.safetensors --calib mse --calib-data wiki.txt
  deploy build ./bert-base --int8 --calib-data wiki.txt --target-drop 0.5 --eval-data eval.txt
  deploy build ./bert-base --int8 --calib-data wiki.txt --engine tensorrt-rtx --gpu sm86,sm89
  deploy build ./bert-base --int8 --calib-data wiki.txt --engine tensorrt \\
    --max-shapes input_ids:32x128,attention_mask:32x128 --timing-cache timings.bin
  deploy build --int8 --print-config

-o is a bundle folder, bundles/MODEL-int8-CALIB unless given. Where --target-drop cannot be held
in the time given, the candidate of least drop is built, and the exit code is 1.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class BuildOptions(EngineFlags):
    """Everything ``deploy build`` can be told."""

    model: str | None = argument(metavar="[MODEL]")
    int8: bool = option(
        False,
        type=bool,
        help="Build INT8 engines; what is not INT8 is FP16 in TensorRT and TensorRT-RTX plans.",
    )
    ranges: str | None = option(
        help="What `deploy calibrate` wrote for this model, instead of a pass over the data."
    )
    engine: str = option(
        "auto",
        help="openvino, onnxruntime, tensorrt, tensorrt-rtx, torch, torch-int8, several with "
        "commas, or all: every one installed that builds here. auto: tensorrt where it and a GPU "
        "are here, else openvino, plus a TensorRT-RTX plan where that package is installed.",
    )
    embed_checkpoint: bool = option(
        False,
        type=bool,
        help="Copy the checkpoint into the bundle for the engines torch and torch-int8, which "
        "otherwise read it, checked by hash, where it is now.",
    )
    golden: str | None = option(
        help="Data for the golden inputs.  [default: token ids drawn from the vocabulary]"
    )
    golden_from_calib: bool = option(
        False, type=bool, help="Store calibration inputs as golden inputs; they may be private."
    )
    quantizer: str = option(
        OURS,
        help="Who inserts Q/DQ: trueint8, onnxruntime, onnxruntime-dynamic, modelopt or nncf.",
    )
    modelopt_python: str | None = option(
        help="Interpreter of the environment that --quantizer modelopt runs in."
    )
    smooth: str | None = option(
        type=click.Choice(["none", "smoothquant", "shift-scale", "auto"]),
        help="Move outliers of activations into weights before quantization.  [default: auto: "
        "shift and scale, each activation at the strength that serves it best]",
    )
    smooth_alpha: float | None = option(
        type=float,
        help="Strength, 0 to 1.  [default: 0.5 for smoothquant, 0.9 for shift-scale]",
    )
    weights: str | None = option(
        help="Estimator of weights: minmax, percentile or mse.  [default: minmax]"
    )
    weights_per_tensor: bool = option(
        False, type=bool, help="One scale per weight instead of one per output channel."
    )
    rounding: str | None = option(
        type=click.Choice(["nearest", "gptq"]),
        help="Of weights; gptq makes up for each channel's error in the channels after it.  "
        "[default: gptq]",
    )
    groups: int = option(
        1,
        type=int,
        help="Cut each activation's channels, sorted by range, into so many groups with a scale "
        "each: as many INT8 matmuls, summed.",
    )
    float_channels: int = option(
        0,
        type=int,
        help="Multiply so many channels of the widest range in float, beside the INT8 matmul.",
    )
    keep_float: tuple[str, ...] = option(
        many=True,
        short="--nodes-to-exclude",
        help="Pattern of matmul names that stay in float, such as '*.output.dense'; repeatable.",
    )
    keep_worst: int | None = option(
        type=int, help="Keep this many matmuls in float, those that --ranking names first."
    )
    ranking: str | None = option(help="What `deploy sensitivity` wrote for a bundle of this model.")
    int8_only: tuple[str, ...] = option(
        many=True, help="Pattern of the only matmuls to quantize; repeatable."
    )
    quantize_head: bool = option(False, type=bool, help="Quantize the language-model head too.")
    attention: str | None = option(
        type=click.Choice(["auto", "int8", "float"]),
        help="The matmuls between activations; auto: INT8 where the engine fuses them into one "
        "kernel.  [default: auto]",
    )
    fp32_rest: bool = option(
        False,
        type=bool,
        help="Keep what is not INT8 in FP32 in TensorRT and TensorRT-RTX plans too.",
    )
    target_drop: float | None = option(
        type=float,
        help="Search for the fewest matmuls in float with which the first engine that runs here "
        "loses at most this on --eval-data: percent of perplexity, points of accuracy, or, where "
        "there are no labels, points of cosine to the float outputs (0.5: a cosine of 0.995).",
    )
    eval_data: str | None = option(help="Evaluation data of the search.")
    eval_samples: int = option(128, type=int, help="Sequences of --eval-data.")
    eval_on_calib: bool = option(False, type=bool, help="Let --eval-data be the calibration data.")
    time_budget: float = option(
        600.0,
        type=float,
        help="Seconds after which the search begins no candidate and takes the best it has.",
    )
    print_config: bool = option(
        False, type=bool, help="Print every value and where it came from, and stop."
    )


def run(options: BuildOptions, origins: dict[str, Origin]) -> None:
    """Build and say what was built."""
    if options.print_config:
        _print_config(options, origins)
        return
    from deploy.building import build_bundle
    from deploy.planning import plan_from_options
    from trueint8.progress import progress_for

    progress = progress_for(quiet=options.quiet)
    if not options.quiet:
        click.echo(_opening(options), err=options.json)
    with progress.step("read model and data"):
        plan = plan_from_options(options)
    bundle, built = build_bundle(plan, progress)
    if options.json:
        manifest = bundle.manifest
        print_json(
            {
                "bundle": str(bundle.path),
                "built": built,
                "sha256": bundle.sha256,
                "parity": manifest.parity.model_dump(),
                "calibration": manifest.calibration.model_dump(),
                "engines": {k: v.model_dump() for k, v in manifest.engines.items()},
                "weight_matmuls": sum(m.weighted for m in manifest.matmuls),
                "search": manifest.search and manifest.search.model_dump(),
                "steps_s": manifest.steps_s,
            }
        )
    elif not options.quiet:
        click.echo(_summary(bundle, built))
    search = bundle.manifest.search
    if search is not None and not search.held:
        click.echo(f"target drop {search.target_drop:g} {search.drop_unit} not reached", err=True)
        raise click.exceptions.Exit(1)


def _opening(options: BuildOptions) -> str:
    data = options.calib_data or EMBEDDED_TEXT
    if options.model is not None:
        return f"build {options.model}, calibrated on {data}"
    return (
        f"no MODEL given: using the embedded small encoder, calibrated on {data}; "
        "pass MODEL and --calib-data for your own"
    )


def _summary(bundle: Any, built: bool) -> str:
    manifest = bundle.manifest
    if not built:
        return f"{bundle.path}: up to date"
    asked, used = manifest.request["calib-samples"], manifest.calibration.samples
    short = used < asked and not manifest.request["ranges"]
    few = f"calibrated on {used} sequences: the data has no more" if short else ""
    weighted = sum(m.weighted for m in manifest.matmuls)
    quantized = sum(m.weighted and not m.reason for m in manifest.matmuls)
    lines = [few] if few else []
    lines += [f"{bundle.path}: {quantized} of {weighted} weight matmuls carry Q/DQ"]
    for name, engine in manifest.engines.items():
        kind = "MEASURED" if engine.runs_here else "BUILT"
        close = "" if engine.cosine is None else f", cosine to float {engine.cosine:.5f}"
        runs = f"{engine.int8_matmuls} matmuls in INT8, rest {engine.rest.upper()}"
        runs = runs if engine.int8 else "the float model, no INT8"
        lines.append(f"  {name} {engine.version}: {runs}{close}  [{kind}, read from the engine]")
        if engine.simulated_cosine is not None:
            lines.append(f"    cosine to float {engine.simulated_cosine:.5f}  [SIMULATED]")
        if engine.reasons is not None:
            attention = [m for m in manifest.matmuls_of(name) if not m.weighted]
            count = sum(not m.reason for m in attention)
            lines.append(f"    {count} of {len(attention)} attention matmuls carry Q/DQ")
    if manifest.search is not None:
        from deploy.search.telling import search_lines

        lines += search_lines(manifest.search)
    lines.append(f"next: deploy profile {bundle.path} --data EVAL")
    return "\n".join(lines)


def _print_config(options: BuildOptions, origins: dict[str, Origin]) -> None:
    hidden = ("print_config", "json", "quiet")
    rows = [
        (f.name.replace("_", "-"), *_effective(options, f.name, origins[f.name].text))
        for f in dataclasses.fields(options)
        if f.name not in hidden
    ]
    if options.json:
        print_json({name: {"value": value, "from": origin} for name, value, origin in rows})
        return
    width = max(len(str(value)) for _, value, _ in rows)
    for name, value, origin in rows:
        shown = "-" if value is None else str(value).lower() if isinstance(value, bool) else value
        click.echo(f"{name:<18} {shown!s:<{width}}  {origin}")


def _effective(options: BuildOptions, name: str, origin: str) -> tuple[Any, str]:
    """Return the value a build would use, and its origin, also for what was left out."""
    value = getattr(options, name)
    if value is not None:
        return value, origin
    if name == "model":
        return "small encoder", "embedded default"
    if name == "calib_data":
        embedded = options.model is None
        return (EMBEDDED_TEXT, "embedded default") if embedded else (None, "missing: required")
    if name == "out":
        return default_out(options), origin
    ours = options.quantizer == OURS
    return {
        "seq_len": "128, or the model's positions if fewer",
        "golden": "drawn",
        "calib": ("minmax" if options.percentile is None else "percentile") if ours else None,
        "percentile": 99.99,
        "smooth": "auto" if ours else None,
        "weights": "minmax" if ours else None,
        "rounding": "gptq" if ours else None,
    }.get(name), origin


def default_out(options: BuildOptions) -> Path:
    """Return the bundle folder used when none is given."""
    path = Path((options.model or "encoder").rpartition(":")[2])
    name = path.stem if path.suffix == ".onnx" else path.resolve().name
    made = "minmax" if options.quantizer == OURS else options.quantizer
    return Path("bundles") / f"{name}-int8-{options.calib or made}"


COMMAND = command_from_options(BuildOptions, run, help=HELP, configurable=True)
