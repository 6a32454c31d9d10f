"""Class labels: what is refused, and that calibration takes no offence at them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention.text import read_examples
from calib.labels import check_labels
from tests.calib.loading import X, load, write_arrays
from trueint8.errors import DataError

IDS = {"bad": 0, "good": 1}


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([0, 99]), "label 99"),
        (np.array([0, -1]), "label -1"),
        (np.array([0.0, 1.0]), "label 0.0 is no class id"),
        (np.array([True, False]), "label True is no class id"),
        (np.zeros((2, 1), np.int64), "shape (2, 1)"),
        (np.array([0, 10**30], dtype=object), f"label {10**30}"),
        (np.array(["good"], dtype=object), "label 'good' is no class id"),
        (np.array(["good"]), "label 'good' is no class id"),
    ],
)
@pytest.mark.parametrize("known", [{"classes": 2}, {"label_ids": IDS}])
def test_labels_that_are_no_class_ids(labels: Any, words: str, known: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        check_labels("data", [np.array([0, 1]), labels], **known)
    assert words in caught.value.problem
    assert len(caught.value.fix.split()) >= 3


def test_ids_of_the_models_classes_pass() -> None:
    for dtype in (np.int64, np.uint8):
        parts = [np.array([0, 1], dtype)]
        check_labels("data", parts, classes=2)
        check_labels("data", parts, label_ids=IDS)
        check_labels("data", parts)
    with pytest.raises(DataError, match="label -1"):
        check_labels("data", [np.array([-1])])


def test_names_without_ids_are_told_to_be_ids() -> None:
    with pytest.raises(DataError) as caught:
        check_labels("data", [np.array(["good"], dtype=object)], classes=2)
    assert "the model names no classes" in caught.value.problem
    assert "give labels as ids" in caught.value.fix


def test_partly_labelled_data_says_so(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "data.jsonl"
    for labels, partly in (([0, None], True), ([0, 1], False), ([None, None], False)):
        rows = [{"text": "a", "label": label} for label in labels]
        path.write_text("\n".join(map(json.dumps, rows)))
        samples = load(path, tokenizer=tokenizer, task="text-classification")
        assert samples.partly_labelled is partly
    path.unlink()
    x = np.zeros((4, 4), np.float32)
    np.savez(tmp_path / "a.npz", x=x, labels=np.zeros(4, np.int64))
    np.savez(tmp_path / "b.npz", x=x)
    found = load(tmp_path, inputs=(X,))
    assert found.partly_labelled
    assert found.labels is None


def test_calibration_has_no_use_for_names(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": "good"}\n{"text": "b", "label": 3}\n')
    assert load(path, tokenizer=tokenizer, task="text-classification").count == 2


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_data_that_is_neither_file_nor_folder(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/null")
    if kind == "pipe":
        path = tmp_path / "data.txt"
        os.mkfifo(path)
    with pytest.raises(DataError, match="neither a file nor a folder"):
        load(path)


def test_folders_inside_a_folder_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    (tmp_path / "b.txt").write_text("text\n")
    assert [e.text for e in read_examples(tmp_path)] == ["text"]


def test_arrays_of_one_kind_keep_their_labels(tmp_path: Path) -> None:
    path = write_arrays(tmp_path, x=np.zeros((4, 4), np.float32), labels=np.arange(4))
    samples = load(path, inputs=(X,))
    assert samples.labels is not None
    assert not samples.partly_labelled
