"""A vision transformer from checkpoint to report, on images in folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from attention.attaching import attach, load_pretrained
from attention.images import digits, image_sets, preprocessing_for
from calib.image_data import read_images
from deploy.building import build_bundle
from deploy.commands.build import BuildOptions
from deploy.planning import plan_from_options
from deploy.profiling.measurement import ProfileRequest, measure
from export.checkpoint import quiet_transformers
from trueint8.errors import DataError
from trueint8.progress import Silence

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    images, labels = digits()
    for index in range(60):
        place = root / str(labels[index])
        place.mkdir(exist_ok=True)
        pixels = (images[index, 0] * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vit") / "vit"
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=8,
        patch_size=2,
        num_channels=1,
        id2label={i: str(i) for i in range(10)},
        label2id={str(i): i for i in range(10)},
    )
    attach(ViTForImageClassification(config), "gated-linear").save_pretrained(out)
    text = json.dumps(preprocessing_for(SHAPE))
    (out / "preprocessor_config.json").write_text(text)
    return out


def test_a_vision_transformer_is_built_and_measured(
    checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    options = BuildOptions(
        model=str(checkpoint),
        int8=True,
        calib_data=str(folder),
        engine="onnxruntime",
        out=str(tmp_path / "bundle"),
    )
    bundle, built = build_bundle(plan_from_options(options), Silence())
    assert built
    assert bundle.manifest.model.task == "image-classification"
    assert bundle.manifest.engines["onnxruntime"].int8_matmuls >= 12
    assert (bundle.path / "tokenizer" / "preprocessor_config.json").is_file()
    rows = list(measure(ProfileRequest([bundle.path], folder, rounds=10), Silence()))
    figures = [a for row in rows for a in row.accuracy]
    assert {a.metric for a in figures} == {"accuracy"}
    assert {a.samples for a in figures} == {60}
    float_row = next(r for r in rows if r.graph == "float")
    assert float_row.accuracy[0].value == pytest.approx(_torch_top1(checkpoint, folder), abs=1e-9)
    for figure in figures:
        assert figure.low is not None and figure.high is not None
        assert figure.low < figure.value < figure.high


def _torch_top1(checkpoint: Path, folder: Path) -> float:
    """Return the share of images whose class the checkpoint itself gives the largest logit."""
    labels = {str(i): i for i in range(10)}
    pixels, classes = read_images(
        folder, SHAPE, samples=60, seed=0, processor=checkpoint, label_ids=labels
    )
    with quiet_transformers(), torch.no_grad():
        model = load_pretrained(AutoModelForImageClassification, str(checkpoint)).eval()
        found = model(torch.from_numpy(pixels)).logits.argmax(-1).numpy()
    assert 0 < (found == classes).sum() < len(found), "a constant answer would pass by chance"
    return float((found == classes).mean())


def test_pixels_are_scaled_and_normalized(folder: Path) -> None:
    pixels, labels = read_images(
        folder, SHAPE, samples=100, seed=0, processor=None, label_ids={str(i): i for i in range(10)}
    )
    assert pixels.shape == (60, *SHAPE) and labels is not None
    assert pixels.min() == -1.0 and pixels.max() <= 1.0
    images, classes = digits()
    first = ((images[0] * 255).round() / 255 - 0.5) / 0.5
    matching = np.abs(pixels - first.astype(np.float32)).max(axis=(1, 2, 3)) < 1e-6
    assert matching.any() and set(labels[matching]) == {classes[0]}


def test_a_class_the_model_does_not_know_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="none of the model's classes"):
        read_images(folder, SHAPE, samples=9, seed=0, processor=None, label_ids={"cat": 0})


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"broken\.png is no image"):
        read_images(tmp_path, SHAPE, samples=9, seed=0, processor=None, label_ids=None)


def test_digits_are_split_by_class() -> None:
    sets = image_sets("digits", SHAPE)
    train, held = np.asarray(sets.train_labels), np.asarray(sets.held_out_labels)
    assert len(train) + len(held) == 1797
    for digit in range(10):
        share = (held == digit).sum() / ((held == digit).sum() + (train == digit).sum())
        assert 0.18 < share < 0.21
