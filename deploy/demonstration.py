"""The demo: two encoders trained, built, profiled and reported in one go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attention.encoder_recipe import EncoderRecipe
from attention.stdlib_text import Split, stdlib_documents
from attention.tokenizing import train_tokenizer
from attention.training import train_encoder
from deploy.building import build_bundle
from deploy.commands.build import BuildOptions
from deploy.planning import plan_from_options
from deploy.profiling.measurement import ProfileRequest, check_rounds, measure
from deploy.profiling.results import Row, write_results
from deploy.reporting.page import write_report
from trueint8.artifacts import staged_folder, write_atomically
from trueint8.progress import Progress

TOKENIZER_BYTES = 2_000_000
TRAINING_BYTES = 5_000_000
TEXT_BYTES = 1_000_000
STEPS = 300
"""Both models take this many, so that they are equally trained where time allows."""
ALPHA = 3.2
"""Bondarenko et al. 2023 clip at γ = −α/T; α = 3.2 is their −0.025 at T = 128."""


def variants(sequence: int) -> dict[str, dict[str, float]]:
    """Return the demo's attention variants with their parameters."""
    return {"vanilla": {}, "clipped": {"gamma": -ALPHA / sequence}}


def run_demo(
    out: Path, *, seconds: float, rounds: int, force: bool, progress: Progress
) -> tuple[list[Row], Path]:
    """Train, build, profile and report.

    Args:
        out: Folder for checkpoints, text, bundles, results and the report.
        seconds: Longest training time of each model.
        rounds: Interleaved rounds when profiling.
        force: Do again what is there already.
        progress: Where progress is shown.

    Returns:
        The rows, and the report's path.

    Raises:
        ConfigError: Before anything is trained, if there are too few rounds.
    """
    check_rounds(rounds)
    recipe = EncoderRecipe(steps=STEPS, seconds=seconds)
    checkpoints = {
        name: out / "checkpoints" / f"encoder-{name}" for name in variants(recipe.sequence)
    }
    _train_absent(recipe, checkpoints, force=force, progress=progress)
    text = {split: out / f"{split}.txt" for split in ("train", "held-out")}
    for split, path in text.items():
        write_atomically(path, _lines(split))  # type: ignore[arg-type]
    bundles = []
    for name, checkpoint in checkpoints.items():
        options = BuildOptions(
            model=str(checkpoint),
            int8=True,
            calib_data=str(text["train"]),
            engine="all",
            out=str(out / "bundles" / f"encoder-{name}-int8-percentile"),
            force=force,
        )
        progress.say(f"build encoder-{name}")
        bundle, _ = build_bundle(plan_from_options(options), progress)
        bundles.append(bundle.path)
    rows = list(measure(ProfileRequest(bundles, text["held-out"], rounds=rounds), progress))
    write_results(out / "results.jsonl", rows)
    report = out / "report.html"
    write_report(rows, report)
    return rows, report


def _train_absent(
    recipe: EncoderRecipe, checkpoints: Mapping[str, Path], *, force: bool, progress: Progress
) -> None:
    absent = {n: p for n, p in checkpoints.items() if force or not p.exists()}
    for name in checkpoints.keys() - absent.keys():
        progress.say(f"{checkpoints[name]}: trained already")
    if not absent:
        return
    texts = stdlib_documents("train", max_bytes=TRAINING_BYTES)
    with progress.step("train tokenizer"):
        tokenizer = train_tokenizer(
            stdlib_documents("train", max_bytes=TOKENIZER_BYTES),
            recipe.vocab_size,
            sequence=recipe.sequence,
        )
    for name, path in absent.items():
        with staged_folder(path, replace=force) as folder:
            train_encoder(
                recipe,
                texts,
                folder,
                variant=name,
                parameters=variants(recipe.sequence)[name],
                tokenizer=tokenizer,
                progress=progress,
            )


def _lines(split: Split) -> str:
    documents = stdlib_documents(split, max_bytes=TEXT_BYTES)
    return "\n".join(line for d in documents for line in d.splitlines() if line.strip()) + "\n"
