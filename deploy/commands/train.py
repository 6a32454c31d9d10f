"""``deploy train``: a small or large model with any attention variant."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from deploy.options import command_from_options, option, print_json

HELP = """Train a transformer with an attention variant, on transformers' Trainer.

A recipe says what is trained and how; flags override it. The same command after a kill goes on
from the last complete checkpoint, with the same loss curve. On several GPUs, start it with
`accelerate launch -m deploy train ...`.

\b
Examples:
  deploy train --recipe backcopy --attention clipped -o backcopy-clipped
  deploy train --recipe text-encoder --attention gated-linear --data wiki.txt -o encoder
  deploy train --arch vit --attention vanilla --data photos/ --steps 5000 -o vit
  deploy train --recipe opt-125m --attention gated-linear --attention-param pi_init=0.25 \\
      --data hf:wikitext:wikitext-103-raw-v1 --precision bf16 -o opt
  deploy train --recipe text-encoder --attention gated-linear --init-from ./bert -o tuned
"""


@dataclasses.dataclass(frozen=True, slots=True)
class TrainOptions:
    """Everything ``deploy train`` can be told."""

    recipe: str | None = option(
        help="Name of a recipe, or a .yaml file.  [default: small, by arch]"
    )
    arch: str | None = option(help="bert, opt, llama or vit.")
    attention: str = option("vanilla", help="Attention variant.")
    attention_param: tuple[str, ...] = option(
        (), multiple=True, help="Hyper-parameter of the variant as NAME=VALUE; may be repeated."
    )
    task: str | None = option(
        help="fill-mask, text-generation, text-classification or image-classification.  "
        "[default: the architecture's own]"
    )
    data: str | None = option(
        help="Text file or folder, image folder, .csv/.jsonl with labels, stdlib, backcopy, "
        "digits, or hf:NAME[:CONFIG].  [default: the recipe's]"
    )
    init_from: str | None = option(help="Pretrained checkpoint to go on from; gates start open.")
    out: str | None = option(short="-o", help="Checkpoint folder.  [default: checkpoints/NAME]")
    steps: int | None = option(type=int, help="Optimizer steps.")
    batch_size: int | None = option(type=int, help="Sequences per device and step.")
    seq_len: int | None = option(type=int, help="Tokens per sequence.")
    learning_rate: float | None = option(type=float, help="Peak of AdamW's.")
    weight_decay: float | None = option(type=float, help="AdamW's.")
    precision: str | None = option(help="fp32, or mixed bf16 or fp16.")
    seed: int | None = option(type=int, help="Seed of weights and data.")
    save_steps: int = option(0, type=int, help="Steps between checkpoints.  [default: a tenth]")
    log_steps: int = option(0, type=int, help="Steps between logged losses.  [default: 1/100]")
    report_to: str = option("none", help="Trackers of the Trainer, such as wandb.")
    store_dtype: str = option(
        "float32", type=click.Choice(["float32", "float16"]), help="Of the stored weights."
    )
    threads: int | None = option(type=int, help="CPU threads.  [default: all cores]")
    tokenizer: str | None = option(help="Tokenizer folder.  [default: trained on the text]")
    force: bool = option(False, type=bool, help="Start anew and replace what is at -o.")
    json: bool = option(False, type=bool, help="Print the result as JSON.")
    quiet: bool = option(False, type=bool, help="Print errors only.")


_SMALL = {
    "bert": "text-encoder",
    "opt": "text-decoder",
    "llama": "text-decoder-llama",
    "vit": "digits",
}


def run(options: TrainOptions) -> None:
    """Train and say what came out."""
    from attention.training_data import open_data
    from trueint8.progress import progress_for

    recipe = _recipe(options)
    progress = progress_for(quiet=options.quiet)
    tokenizer = _tokenizer(options)
    with progress.step("read data"):
        data = open_data(recipe, options.data, tokenizer)
    from attention.starting import TrainingRequest
    from attention.trainer import train

    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    parameters = {**dict(recipe.attention.get(options.attention, {})), **_parameters(options)}
    name = options.recipe or options.arch or "model"
    out = Path(options.out or f"checkpoints/{Path(name).stem}-{options.attention}")
    request = TrainingRequest(
        recipe=recipe,
        variant=options.attention,
        parameters=parameters,
        data=options.data or str(recipe.data),
        out=out,
        init_from=options.init_from,
        save_steps=options.save_steps,
        log_steps=options.log_steps,
        report_to=options.report_to,
        store_dtype=options.store_dtype,
        force=options.force,
    )
    result = train(request, data, progress)
    if options.json:
        print_json({"checkpoint": str(out), **{k: v for k, v in result.items() if k != "log"}})
    elif not options.quiet:
        click.echo(_summary(out, result))


def _recipe(options: TrainOptions) -> Any:
    from attention.recipe import ARCHITECTURES, load_recipe
    from trueint8.errors import ConfigError, UnknownName
    from trueint8.registry import did_you_mean

    if options.recipe is None and options.arch is None:
        raise ConfigError(
            "nothing says what to train", fix="pass --recipe NAME, or --arch bert|opt|llama|vit"
        )
    if options.arch is not None and options.arch not in ARCHITECTURES:
        raise UnknownName(
            f"no architecture is called {options.arch!r}",
            fix=f"{did_you_mean(options.arch, ARCHITECTURES)}choose one of: "
            f"{', '.join(ARCHITECTURES)}",
        )
    return load_recipe(
        options.recipe or _SMALL[str(options.arch)],
        arch=options.arch,
        task=options.task,
        steps=options.steps,
        batch_size=options.batch_size,
        sequence=options.seq_len,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        precision=options.precision,
        seed=options.seed,
    )


def _parameters(options: TrainOptions) -> dict[str, Any]:
    from trueint8.errors import ConfigError
    from trueint8.plain_files import SPOILT, yaml_from_text

    parameters = {}
    for given in options.attention_param:
        name, equals, value = given.partition("=")
        if not equals or not name:
            raise ConfigError(
                f"--attention-param {given!r} is not NAME=VALUE", fix="write gamma=-0.025"
            )
        try:
            parameters[name] = yaml_from_text(value)
        except SPOILT as err:
            raise ConfigError(
                f"--attention-param {name} is no YAML value: {err}", fix="write gamma=-0.025"
            ) from err
    return parameters


def _tokenizer(options: TrainOptions) -> Any:
    """Return the tokenizer that was given, or comes with the checkpoint to start from."""
    folder = options.tokenizer or options.init_from
    if folder is None or (options.tokenizer is None and not any(Path(folder).glob("token*"))):
        return None
    from transformers import AutoTokenizer

    from trueint8.errors import ConfigError

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as err:
        raise ConfigError(
            f"no tokenizer can be loaded from {folder}: {str(err).splitlines()[0]}",
            fix="pass --tokenizer FOLDER",
        ) from err


def _summary(out: Path, result: dict[str, Any]) -> str:
    figures = [f"held-out loss {result['held_out_loss']:.4f} nats"]
    if "held_out_accuracy" in result:
        figures.append(f"accuracy {100 * result['held_out_accuracy']:.2f} %")
    if "entropy_nats" in result:
        figures.append(f"entropy {result['entropy_nats']:.4f}")
    return (
        f"{out}: {result['steps']} steps, {', '.join(figures)}  [MEASURED]\n"
        f"next: deploy build {out} --int8 --calib-data DATA"
    )


COMMAND = command_from_options(TrainOptions, run, help=HELP)
