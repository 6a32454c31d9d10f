"""``deploy train``: every task, resuming after a kill, and what it refuses."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from attention.attaching import load_pretrained
from attention.recipe import load_recipe, recipe_names
from attention.starting import TrainingRequest, build_model
from attention.training_data import TrainingData
from tests.deploy.checkpoints import prose
from tests.deploy.running import run_here, start

BACKCOPY = ("train", "--recipe", "backcopy", "--threads", 1)
SMALL = ("--steps", 4, "--batch-size", 2, "--threads", 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "text.txt").write_text("\n".join(prose(120, 3)) + "\n", "utf-8")
    rows = [f'"{line}",{"long" if len(line) > 60 else "short"}' for line in prose(60, 4)]
    (folder / "labelled.csv").write_text("\n".join(["text,label", *rows]) + "\n", "utf-8")
    draw = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(15):
            pixels = draw.integers(0, 255, (12, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{index}.png")
    return folder


@pytest.mark.parametrize(
    ("arch", "source", "variant", "kind", "more"),
    [
        ("bert", "text.txt", "clipped", "BertForMaskedLM", ()),
        ("opt", "text.txt", "gated-linear", "OPTForCausalLM", ()),
        ("llama", "text.txt", "differential", "LlamaForCausalLM", ()),
        ("vit", "photos", "gated-mlp", "ViTForImageClassification", ()),
        (
            "bert",
            "labelled.csv",
            "softmax1",
            "BertForSequenceClassification",
            ("--task", "text-classification"),
        ),
    ],
)
def test_every_task_trains(
    data: Path, tmp_path: Path, arch: str, source: str, variant: str, kind: str, more: Any
) -> None:
    out = tmp_path / "model"
    length = () if arch == "vit" else ("--seq-len", 32)
    ended = run_here(
        "train", "--arch", arch, "--attention", variant, "--data", data / source, "-o", out,
        *SMALL, *length, *more, "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    result = ended.json
    assert result["checkpoint"] == str(out)
    assert result["steps"] == 4
    assert np.isfinite(result["held_out_loss"])
    assert ("held_out_accuracy" in result) == kind.endswith("Classification")
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == [kind]
    assert config["attention_variant"]["name"] == variant
    assert not [p for p in out.iterdir() if p.suffix in (".bin", ".pt", ".pth")]
    assert not out.with_name("model.training").exists()
    record = json.loads((out / "training.json").read_text())
    assert [row["step"] for row in record["log"]] == [1, 2, 3, 4]
    wanted = "preprocessor_config.json" if arch == "vit" else "tokenizer.json"
    assert (out / wanted).is_file()


def killed_after(step: int, out: Path, *arguments: object) -> None:
    """Start a training, wait until it has stored ``step``, and kill it as the kernel would."""
    process = start(*arguments)
    deadline = time.monotonic() + 200
    wanted = out.with_name(f"{out.name}.training") / f"checkpoint-{step}" / "trainer_state.json"
    while not wanted.exists():
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()


def test_a_killed_training_goes_on_with_the_same_losses_to_the_same_weights(
    tmp_path: Path,
) -> None:
    amount = ("--steps", 60, "--save-steps", 5, "--log-steps", 1)
    settings = (*BACKCOPY, "--attention", "gated-linear", *amount)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_here(*settings, "-o", whole).code == 0
    killed_after(10, killed, *settings, "-o", killed)
    folders = killed.with_name("killed.training").glob("checkpoint-*")
    last = max(folders, key=lambda p: int(p.name.rpartition("-")[2]))
    (last / "trainer_state.json").write_text('{"global_step": ')  # as if killed while writing it
    ended = run_here(*settings, "-o", killed)
    assert ended.code == 0, ended.err
    assert "resume from step" in ended.err
    logs = [json.loads((p / "training.json").read_text())["log"] for p in (whole, killed)]
    assert [row["step"] for row in logs[0]] == list(range(1, 61))
    assert [row["loss"] for row in logs[1]] == [row["loss"] for row in logs[0]]
    weights = [load_file(p / "model.safetensors") for p in (whole, killed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_is_trained_is_not_trained_again_or_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "model"
    first = (*BACKCOPY, "--steps", 2, "-o", out)
    assert run_here(*first).code == 0
    stamp = (out / "model.safetensors").stat().st_mtime_ns
    again = run_here(*first)
    assert again.code == 0 and "trained already" in again.err
    assert (out / "model.safetensors").stat().st_mtime_ns == stamp
    other = run_here(*BACKCOPY, "--steps", 3, "-o", out)
    other.refused(2, "holds another run (other steps)", "--force")
    assert (out / "model.safetensors").stat().st_mtime_ns == stamp
    assert run_here(*BACKCOPY, "--steps", 3, "-o", out, "--force").code == 0
    assert json.loads((out / "training.json").read_text())["steps"] == 3


def test_a_pretrained_model_is_tuned_into_a_variant(tmp_path: Path) -> None:
    vanilla, tuned = tmp_path / "vanilla", tmp_path / "tuned"
    assert run_here(*BACKCOPY, "--steps", 40, "-o", vanilla).code == 0
    ended = run_here(
        *BACKCOPY, "--steps", 1, "--learning-rate", 1e-9, "--weight-decay", 0,
        "--attention", "gated-linear", "--init-from", vanilla, "-o", tuned,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    losses = [
        json.loads((p / "training.json").read_text())["held_out_loss"] for p in (vanilla, tuned)
    ]
    assert losses[1] == pytest.approx(losses[0], abs=2e-3), "gates start open"
    model = load_pretrained(transformers.AutoModelForCausalLM, str(tuned))
    assert model.config.attention_variant["name"] == "gated-linear"


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_makes_the_model_that_it_describes(name: str) -> None:
    recipe = load_recipe(name)
    fields: dict[str, Any] = {"vocab_size": recipe.vocab_size}
    if recipe.the_task() == "image-classification":
        fields = {"num_labels": 10}
    data = TrainingData(lambda rng: {}, [], fields)
    request = TrainingRequest(recipe, "vanilla", {}, "-", Path("-"))
    with torch.device("meta"):
        model = build_model(request, data)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    published = {"bert-base": 109.5, "opt-125m": 125.2, "opt-125m-norm-decay": 125.2}
    published |= {"vit-s16": 21.7, "vit-s16-patch-norm": 21.7}
    if name in published:
        assert count == pytest.approx(published[name], rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, ("nothing says what to train", "--recipe NAME")),
        (("--arch", "brt"), 3, ("no architecture is called 'brt'", "did you mean 'bert'")),
        (("--recipe", "backcop"), 3, ("no recipe is called 'backcop'", "did you mean 'backcopy'")),
        (
            ("--recipe", "backcopy", "--attention", "cliped"),
            3,
            ("no variant is called 'cliped'", "did you mean 'clipped'", "gated-linear"),
        ),
        (
            ("--recipe", "backcopy", "--attention", "clipped", "--attention-param", "gama=-1"),
            2,
            ("no parameter 'gama'", "alpha"),
        ),
        (
            ("--recipe", "backcopy", "--attention-param", "gamma"),
            2,
            ("--attention-param 'gamma' is not NAME=VALUE",),
        ),
        (("--recipe", "backcopy", "--steps", 0), 2, ("steps=0 is out of range",)),
        (("--recipe", "backcopy", "--learning-rate", 0), 2, ("learning_rate=0.0 is out of",)),
        (("--arch", "bert", "--data", "nowhere.txt"), 10, ("no training data at nowhere.txt",)),
        (("--arch", "bert", "--data", "backcopy"), 2, ("backcopy cannot train fill-mask",)),
        (
            ("--arch", "bert", "--data", "digits", "--task", "image-clasification"),
            3,
            ("no task is called", "did you mean 'image-classification'"),
        ),
        (
            ("--recipe", "backcopy", "--init-from", "./nowhere"),
            5,
            ("no checkpoint folder at nowhere",),
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(
    arguments: tuple[object, ...], code: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    ended = run_here("train", *arguments, "-o", tmp_path / "out", cwd=tmp_path)
    ended.refused(code, *words)
    assert not list(tmp_path.iterdir())


def test_a_recipe_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    recipes = {
        "odd heads": (
            "arch: opt\ndata: backcopy\nsequence: 48\nmodel: {hidden_size: 63, ffn_dim: 8, "
            "word_embed_proj_dim: 63, num_hidden_layers: 1, num_attention_heads: 3}\n",
            ("--attention", "differential"),
            "3",
        ),
        "positions": (
            "arch: bert\ndata: text.txt\nsequence: 64\nmodel: {hidden_size: 16, "
            "num_attention_heads: 2, num_hidden_layers: 1, intermediate_size: 8, "
            "max_position_embeddings: 32}\n",
            (),
            "sequence=64 is longer than the model's 32 positions",
        ),
        "field": ("arch: bert\nsteps_: 3\n", (), "a recipe has no field 'steps_'"),
        "yaml": ("arch: [\n", (), "is not valid YAML"),
    }
    (tmp_path / "text.txt").write_text("\n".join(prose(400, 3)) + "\n")
    for name, (text, more, message) in recipes.items():
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        ended = run_here("train", "--recipe", path, *more, "-o", tmp_path / "out", cwd=tmp_path)
        ended.refused(2, message), name
        assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = run_here(*BACKCOPY, "--steps", 30, "--learning-rate", 1e12, "-o", out)
    ended.refused(2, "the loss is", "lower --learning-rate")
    assert not out.exists()


def test_what_a_kill_left_is_no_checkpoint_to_start_from(tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert run_here(*BACKCOPY, "--steps", 2, "-o", out).code == 0
    path = out / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    settings = (*BACKCOPY, "--steps", 2, "--attention", "gated-linear", "--init-from", out)
    run_here(*settings, "-o", tmp_path / "tuned").refused(5, str(out))
    path.unlink()
    shutil.copy(tmp_path / "model" / "config.json", tmp_path / "model" / "pytorch_model.bin")
    run_here(*settings, "-o", tmp_path / "tuned").refused(5, "pickle")


def test_a_data_set_that_was_saved_to_disk_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    folder = tmp_path / "set"
    datasets.Dataset.from_dict({"text": prose(200, 5)}).save_to_disk(folder)
    settings = ("train", "--arch", "bert", "--data", folder, "--seq-len", 16, *SMALL)
    ended = run_here(*settings, "-o", tmp_path / "model")
    assert ended.code == 0, ended.err
    datasets.Dataset.from_dict({"words": prose(9, 5)}).save_to_disk(tmp_path / "other")
    ended = run_here("train", "--arch", "bert", "--data", tmp_path / "other", "-o", tmp_path / "no")
    ended.refused(10, "no column 'text' but words")
