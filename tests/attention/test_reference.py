"""The reference checkpoints: small, in FP16, and what their metrics say recomputed from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open

import attention
from attention.attaching import CONFIG_KEY, load_pretrained
from attention.masked_lm import token_stream
from attention.stdlib_text import stdlib_documents

ROOT = Path(str(attention.__file__)).parent / "reference"
CHECKPOINTS = sorted(p.parent for p in ROOT.glob("*/*/model.safetensors"))
IDS = [f"{p.parent.name}-{p.name}" for p in CHECKPOINTS]
DECODERS = [p for p in CHECKPOINTS if p.parent.name == "backcopy"]


def read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return loaded


def test_together_they_are_small() -> None:
    assert sum(p.stat().st_size for p in ROOT.rglob("*") if p.is_file()) < 30_000_000


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=IDS)
def test_each_has_recipe_seed_log_and_metrics(folder: Path) -> None:
    with safe_open(folder / "model.safetensors", framework="pt") as stored:
        kinds = {stored.get_tensor(name).dtype for name in stored.keys()}  # noqa: SIM118
    assert kinds == {torch.float16}
    assert not [p for p in folder.iterdir() if p.suffix not in (".json", ".safetensors")]
    training, config = read(folder / "training.json"), read(folder / "config.json")
    assert training["request"]["attention"]["name"] == folder.name
    assert config[CONFIG_KEY]["name"] == folder.name
    assert isinstance(training["request"]["recipe"]["seed"], int)
    assert len(training["log"]) >= 20
    assert training["log"][-1]["loss"] < training["log"][0]["loss"]
    metrics = read(folder / "metrics.json")
    assert metrics["loss"] == pytest.approx(training["held_out_loss"], rel=0.01)
    assert f"| {folder.name} | 0 | " in (folder.parent / "README.md").read_text("utf-8")


@pytest.mark.parametrize("folder", DECODERS, ids=[p.name for p in DECODERS])
def test_outliers_and_loss_of_a_decoder_are_those_in_its_metrics(folder: Path) -> None:
    """Computed here from the definitions, with nothing of the benchmark that wrote them."""
    from attention import backcopy

    model = load_pretrained(
        transformers.AutoModelForCausalLM, str(folder), dtype=torch.float32
    ).eval()
    ids = torch.from_numpy(backcopy.sequences("held-out"))
    seen: list[np.ndarray] = []
    block = model.model.decoder.layers[0]
    keep = block.register_forward_hook(
        lambda m, a, out: seen.append((out[0] if isinstance(out, tuple) else out).numpy())
    )
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    keep.remove()
    targets = torch.from_numpy(backcopy.labels(ids.numpy()))[:, 1:]
    surprise = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())
    flat = seen[0].reshape(len(ids), -1).astype(np.float64)
    centred = flat - flat.mean(axis=1, keepdims=True)
    kurtosis = ((centred**4).mean(axis=1) / (centred**2).mean(axis=1) ** 2).mean()
    metrics = read(folder / "metrics.json")
    assert float(surprise) == pytest.approx(metrics["loss"], rel=1e-4)
    assert kurtosis == pytest.approx(metrics["blocks"][0]["kurtosis"], rel=1e-3)
    assert np.abs(flat).max(axis=1).mean() == pytest.approx(
        metrics["blocks"][0]["inf_norm"], rel=1e-4
    )


def test_an_encoder_knows_more_than_token_frequencies_of_held_out_text() -> None:
    folder = ROOT / "text-encoder" / "vanilla"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    streams = [
        token_stream(tokenizer, stdlib_documents(split, max_bytes=200_000), at_least=1)
        for split in ("train", "held-out")
    ]
    counts = np.bincount(streams[0], minlength=len(tokenizer)) + 1.0
    unigram = -np.log(counts / counts.sum())[streams[1]].mean()
    assert read(folder / "metrics.json")["loss"] < 0.65 * unigram
