"""The checkpoint that ships with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForMaskedLM, AutoTokenizer

from attention.attaching import CONFIG_KEY, IMPLEMENTATION
from attention.masked_lm import masked_lm_loss, unigram_loss
from attention.stdlib_text import stdlib_documents

FOLDER = Path(str(files("attention"))) / "reference" / "encoder"


def test_it_is_small_and_stored_in_float16() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 10_000_000
    with safe_open(FOLDER / "model.safetensors", framework="pt") as stored:
        kinds = {stored.get_tensor(name).dtype for name in stored.keys()}  # noqa: SIM118
    assert kinds == {torch.float16}


def test_it_knows_more_than_token_frequencies_of_held_out_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForMaskedLM.from_pretrained(
        FOLDER, dtype=torch.float32, attn_implementation=IMPLEMENTATION
    )
    assert model.dtype == torch.float32
    assert getattr(model.config, CONFIG_KEY) == {"name": "vanilla"}
    held_out = stdlib_documents("held-out", max_bytes=200_000)
    unigram = unigram_loss(tokenizer, stdlib_documents("train", max_bytes=200_000), held_out)
    assert masked_lm_loss(model, tokenizer, held_out, windows=64) < 0.65 * unigram


def test_its_page_gives_the_measured_losses() -> None:
    page = (FOLDER / "README.md").read_text()
    for row in ("unigram model", "encoder before training", "encoder after training, float32"):
        assert f"| {row} | " in page
