"""Train the reference checkpoint that ships in ``attention/reference/encoder``.

    python -m benchmarks.train_reference OUT [--minutes 20]

Writes the checkpoint in float16 and a README with what was measured.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import BertForMaskedLM

from attention.masked_lm import masked_lm_loss, token_stream, unigram_loss
from attention.stdlib_text import stdlib_documents
from attention.tokenizing import train_tokenizer
from attention.training import (
    EncoderRecipe,
    TrainingSummary,
    initial_encoder,
    train_encoder,
)
from trueint8.progress import Lines

VARIANT = "vanilla"


def main() -> None:
    """Train, measure, and write the checkpoint and its README."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_reference")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    recipe = EncoderRecipe(
        batch_size=8, learning_rate=1e-3, warm_up=0.03, seconds=60.0 * options.minutes
    )
    train, held_out = stdlib_documents("train"), stdlib_documents("held-out")
    tokenizer = train_tokenizer(train, recipe.vocab_size, sequence=recipe.sequence)
    stream = token_stream(tokenizer, train, at_least=recipe.sequence)
    untrained = initial_encoder(recipe, tokenizer, stream, VARIANT, {})
    losses = {
        "unigram model": unigram_loss(tokenizer, train, held_out),
        "encoder before training": masked_lm_loss(untrained, tokenizer, held_out),
    }
    summary = train_encoder(
        recipe,
        train,
        out,
        variant=VARIANT,
        parameters={},
        tokenizer=tokenizer,
        progress=Lines(sys.stderr),
    )
    losses["encoder after training, float32"] = _loss_of(out, tokenizer, held_out)
    BertForMaskedLM.from_pretrained(out, dtype=torch.float16).save_pretrained(out)
    losses["as stored, float16, computed in float32"] = _loss_of(out, tokenizer, held_out)
    text = _readme(recipe, summary, losses, sum(len(t.encode()) for t in train), stream.size)
    (out / "README.md").write_text(text)
    print(text)


def _loss_of(folder: Path, tokenizer: Any, held_out: list[str]) -> float:
    model = BertForMaskedLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="trueint8"
    )
    return masked_lm_loss(model, tokenizer, held_out)


def _readme(
    recipe: EncoderRecipe,
    summary: TrainingSummary,
    losses: dict[str, float],
    text_bytes: int,
    text_tokens: int,
) -> str:
    rows = "\n".join(f"| {name} | {loss:.3f} |" for name, loss in losses.items())
    return f"""# Reference encoder

A small BERT masked LM for trying TrueInt8 without a checkpoint of one's own:
{recipe.layers} layers, width {recipe.width}, {recipe.heads} heads, feed-forward {recipe.ffn}, \
vocabulary {recipe.vocab_size}, sequences of {recipe.sequence} tokens, softmax attention. It is \
small and briefly trained; it is of no use as a language model.

- **Text**: the source of Python {platform.python_version()}'s standard library without its \
tests, {text_bytes / 1e6:.1f} MB, {text_tokens:,} tokens. About one file in ten, chosen by a hash \
of its path, is held out. The text is under the Python Software Foundation License.
- **Start**: weights from `attention/initialization.py`, which counts tokens and their neighbours.
- **Training**: `python -m benchmarks.train_reference`, {summary.steps:,} steps of \
{recipe.batch_size} windows, {summary.tokens:,} tokens, {summary.seconds:.0f} s on \
{torch.get_num_threads()} CPU threads of a machine that had other work too. AdamW, peak learning \
rate {recipe.learning_rate:g}, {100 * recipe.warm_up:.0f} % warm-up, {recipe.decay} decay, weight \
decay {recipe.weight_decay:g}, {100 * recipe.mask_probability:.0f} % masked, seed {recipe.seed}.
- **Storage**: float16; load with `dtype=torch.float32` to compute in float32.

Held-out masked-LM loss, 15 % masked, 512 windows, nats per masked token (measured):

| model | loss |
|---|---|
{rows}
"""


if __name__ == "__main__":
    main()
