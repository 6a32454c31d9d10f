"""Data in: every refusal says which file, what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.data import check_lengths, check_tokens
from calib.inputs import GraphInput
from tests.calib.loading import IDS, INT64, X, load, write_arrays, write_text_file
from trueint8.errors import ConfigError, DataError


def _refusal(path: Path, **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        load(path, **options)
    assert len(caught.value.fix.split()) >= 3
    return caught.value


def test_nothing_there(tmp_path: Path) -> None:
    error = _refusal(tmp_path / "gone.txt")
    assert error.problem == f"no data at {tmp_path / 'gone.txt'}"
    assert ".npz" in error.fix


@pytest.mark.parametrize("content", [b"", b"\n", b" \n\t\n\r\n", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_no_text(tmp_path: Path, tokenizer: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"data{suffix}"
    path.write_bytes(content)
    error = _refusal(path, tokenizer=tokenizer)
    assert error.problem == f"{path} holds no text"


def test_objects_with_blank_text_only(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": ""}\n{"text": "  "}\n')
    assert _refusal(path, tokenizer=tokenizer).problem == f"{path} holds no text"


def test_binary(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(b"text\n\x7fELF\x00\x01")
    error = _refusal(path, tokenizer=tokenizer)
    assert error.problem == f"{path} is binary: it holds a zero byte at offset 9"
    assert "iconv" in error.fix


def test_another_encoding(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes("a café".encode("latin-1"))
    error = _refusal(path, tokenizer=tokenizer)
    assert error.problem == f"{path} is not UTF-8 text at byte 5"
    assert "iconv" in error.fix


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("text", "line 3 is not JSON"),
        ('{"text": "a"', "line 3 is not JSON"),
        ("[1]", 'line 3 has no string under "text"'),
        ('"text"', 'line 3 has no string under "text"'),
        ('{"label": 1}', 'line 3 has no string under "text"'),
        ('{"text": 5}', 'line 3 has no string under "text"'),
        ('{"text": null}', 'line 3 has no string under "text"'),
        ('{"text": "a", "label": 1.5}', "line 3 has a label that is no id or name"),
        ('{"text": "a", "label": true}', "line 3 has a label that is no id or name"),
        ('{"text": "a", "label": [1]}', "line 3 has a label that is no id or name"),
    ],
)
def test_a_line_that_is_no_example(
    tmp_path: Path, tokenizer: Path, line: str, problem: str
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f'{{"text": "fine", "label": null}}\n\n{line}\n')
    error = _refusal(path, tokenizer=tokenizer)
    assert problem in error.problem
    assert '{"text": "...", "label": 1}' in error.fix


def test_a_label_the_model_does_not_have(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": "sad"}\n')
    ids = {"good": 1, "bad": 0}
    error = _refusal(path, tokenizer=tokenizer, task="text-classification", label_ids=ids)
    assert error.problem == "label 'sad' is none of the model's: good, bad"


def test_an_empty_folder(tmp_path: Path) -> None:
    assert _refusal(tmp_path).problem == f"{tmp_path} holds no files"


def test_a_folder_of_two_kinds(tmp_path: Path) -> None:
    write_text_file(tmp_path)
    write_arrays(tmp_path, x=np.zeros((2, 4), np.float32))
    error = _refusal(tmp_path)
    assert error.problem == f"{tmp_path} mixes text and arrays"
    assert error.fix == "keep them in two folders"


@pytest.mark.parametrize("name", ["data.csv", "data", "data.parquet"])
@pytest.mark.parametrize("whole_folder", [False, True])
def test_an_unknown_kind_of_file(tmp_path: Path, name: str, whole_folder: bool) -> None:
    (tmp_path / name).write_text("a,b\n")
    if whole_folder:
        write_text_file(tmp_path)
    error = _refusal(tmp_path if whole_folder else tmp_path / name)
    assert f"{name} is of no kind that is read here" in error.problem


def test_text_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--tokenizer FOLDER"):
        load(write_text_file(tmp_path))


@pytest.mark.parametrize("content", [None, "{", '{"model": 5}'])
def test_a_folder_without_a_usable_tokenizer(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
        (folder / "tokenizer_config.json").write_text("{}")
    error = _refusal(write_text_file(tmp_path), tokenizer=folder)
    assert f"the tokenizer in {folder} cannot be loaded" in error.problem


def test_an_input_text_cannot_fill(tmp_path: Path, tokenizer: Path) -> None:
    pixels = GraphInput("pixel_values", np.dtype(np.float32), (None, 3))
    error = _refusal(write_text_file(tmp_path), inputs=(IDS, pixels), tokenizer=tokenizer)
    assert error.problem == "the model's input 'pixel_values' cannot be made from text"


def test_a_missing_array(tmp_path: Path) -> None:
    path = write_arrays(tmp_path, input_ids=np.zeros((4, 8), np.int64), other=np.zeros(4))
    error = _refusal(path)
    assert error.problem == f"{path} has no array 'attention_mask'; it holds: input_ids, other"
    assert error.fix == "name the arrays as the model's inputs: input_ids, attention_mask"


@pytest.mark.parametrize("dtype", [np.float32, np.complex64, "U3"])
def test_ids_of_another_dtype(tmp_path: Path, dtype: Any) -> None:
    ids = np.zeros((4, 8), dtype)
    path = write_arrays(tmp_path, input_ids=ids, attention_mask=np.ones((4, 8), np.int64))
    error = _refusal(path)
    assert error.problem == (f"{path}: 'input_ids' has dtype {ids.dtype}, the model takes int64")


@pytest.mark.parametrize("shape", [(4,), (4, 4, 1), (4, 5)])
def test_another_rank_or_width(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write_arrays(tmp_path, x=np.zeros(shape, np.float32))
    error = _refusal(path, inputs=(X,))
    assert error.problem == f"{path}: 'x' has shape {shape}, the model takes ('dynamic', 4)"


def test_a_single_number(tmp_path: Path) -> None:
    path = write_arrays(tmp_path, x=np.float32(1))
    assert "'x' has shape ()" in _refusal(path, inputs=(X,)).problem


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    path = write_arrays(tmp_path, x=np.array([{"a": 1}, None], dtype=object))
    error = _refusal(path, inputs=(X,))
    assert "is not a readable .npz of plain arrays" in error.problem
    assert "numpy.savez" in error.fix


def _broken(path: Path, kind: str) -> None:
    if kind == "one array":
        with path.open("wb") as stream:
            np.save(stream, np.zeros((2, 4)))
        return
    np.savez_compressed(path, x=np.random.default_rng(0).standard_normal((64, 4)))
    raw = bytearray(path.read_bytes())
    if kind == "cut":
        raw = raw[:300]
    elif kind == "changed":
        raw[150:400] = bytes(255 - b for b in raw[150:400])
    else:
        raw = bytearray({"text": b"not a zip file", "empty": b"", "pickle": b"\x80\x04N."}[kind])
    path.write_bytes(raw)


@pytest.mark.parametrize("kind", ["text", "empty", "pickle", "cut", "changed", "one array"])
def test_a_file_that_is_no_archive(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "data.npz"
    _broken(path, kind)
    error = _refusal(path, inputs=(X,))
    assert f"{path} is not a readable .npz of plain arrays" in error.problem


@pytest.mark.parametrize("other", ["attention_mask", "labels"])
@pytest.mark.parametrize("rows", [3, 5])
def test_arrays_of_different_lengths(tmp_path: Path, other: str, rows: int) -> None:
    arrays = {name: np.ones((4, 8), np.int64) for name in ("input_ids", "attention_mask")}
    arrays[other] = np.ones((rows, 8), np.int64)
    error = _refusal(write_arrays(tmp_path, **arrays))
    assert "the arrays differ in their first axis" in error.problem


def test_no_rows(tmp_path: Path) -> None:
    path = write_arrays(tmp_path, x=np.zeros((0, 4), np.float32))
    assert "holds no whole batch" in _refusal(path, inputs=(X,)).problem


def test_fewer_rows_than_the_graphs_fixed_batch(tmp_path: Path, tokenizer: Path) -> None:
    fixed = GraphInput("x", np.dtype(np.float32), (8, 4))
    path = write_arrays(tmp_path, x=np.zeros((7, 4), np.float32))
    assert "holds no whole batch" in _refusal(path, inputs=(fixed,)).problem
    ids = GraphInput("input_ids", INT64, (64, 16))
    error = _refusal(write_text_file(tmp_path), inputs=(ids,), tokenizer=tokenizer)
    assert "the graph's batch is fixed at 64" in error.problem


def test_sequences_longer_than_the_positions(tmp_path: Path) -> None:
    ids = np.ones((4, 20), np.int64)
    samples = load(write_arrays(tmp_path, input_ids=ids, attention_mask=ids))
    with pytest.raises(DataError) as caught:
        check_lengths(samples, 16)
    assert "sequences of 20 tokens; the model has 16 positions" in caught.value.problem
    check_lengths(samples, 20)
    check_lengths(samples, None)


@pytest.mark.parametrize("token", [-1, 300, 10**9])
def test_a_token_beyond_the_vocabulary(tmp_path: Path, token: int) -> None:
    ids = np.full((4, 20), 299)
    ids[2, 3] = token
    path = write_arrays(tmp_path, input_ids=ids, attention_mask=np.ones_like(ids))
    samples = load(path)
    with pytest.raises(DataError) as caught:
        check_tokens(samples, 300)
    assert f"'input_ids' holds {token}; the model's vocabulary has 300" in caught.value.problem
    check_tokens(samples, None)
    ids[2, 3] = 0
    write_arrays(tmp_path, input_ids=ids, attention_mask=np.ones_like(ids))
    check_tokens(load(path), 300)


def test_a_row_that_is_hidden_whole(tmp_path: Path) -> None:
    ids = np.ones((7, 20), np.int64)
    mask = np.ones_like(ids)
    mask[5] = 0
    samples = load(write_arrays(tmp_path, input_ids=ids, attention_mask=mask))
    with pytest.raises(DataError, match="hides every token of row 1 of batch 1"):
        check_tokens(samples, None)


def test_sequences_of_no_length(tmp_path: Path) -> None:
    ids = np.ones((4, 0), np.int64)
    error = _refusal(write_arrays(tmp_path, input_ids=ids, attention_mask=ids))
    assert "'input_ids' has shape (4, 0)" in error.problem
