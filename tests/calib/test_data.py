"""Data in: batches that are exactly what was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention.text import read_examples
from calib.data import Samples, load_tokenizer
from calib.inputs import GraphInput
from export.source import Task
from tests.calib.loading import INT64, LINES, X, load, write_arrays, write_text_file
from trueint8.artifacts import sha256_file


def _rows(samples: Samples) -> list[tuple[int, ...]]:
    return [tuple(row) for batch in samples.batches for row in batch["input_ids"]]


def test_packed_blocks_are_full_framed_and_unpadded(tmp_path: Path, tokenizer: Path) -> None:
    encoder = load_tokenizer(tokenizer)
    samples = load(write_text_file(tmp_path), tokenizer=tokenizer, samples=10, batch=4)
    assert [len(b["input_ids"]) for b in samples.batches] == [4, 4, 2]
    assert samples.count == 10 and samples.labels is None
    for batch in samples.batches:
        ids = batch["input_ids"]
        assert ids.shape[1] == 16 and ids.dtype == np.int64
        assert (batch["attention_mask"] == 1).all()
        assert (ids[:, 0] == encoder.cls_token_id).all()
        assert (ids[:, -1] == encoder.sep_token_id).all()
        assert not np.isin(ids[:, 1:-1], encoder.all_special_ids).any()
    assert len(set(_rows(samples))) == 10, "no block is drawn twice"


def test_packed_blocks_are_pieces_of_the_text(tmp_path: Path, tokenizer: Path) -> None:
    encoder = load_tokenizer(tokenizer)
    text = "\n".join(LINES)
    for row in _rows(load(write_text_file(tmp_path), tokenizer=tokenizer)):
        assert encoder.decode(list(row[1:-1])) in text


def test_too_little_text_for_a_block_is_padded(tmp_path: Path, tokenizer: Path) -> None:
    samples = load(write_text_file(tmp_path, ["ab"]), tokenizer=tokenizer, sequence=32)
    (batch,) = samples.batches
    assert len(batch["input_ids"]) == 1
    assert batch["input_ids"].shape[1] < 32
    assert (batch["attention_mask"] == 1).all()


def _classified(folder: Path, labels: list[Any]) -> Path:
    path = folder / "data.jsonl"
    texts = ["a", "width * height and more", "café", "return 1", "x " * 60]
    rows = [{"text": t, "label": v} for t, v in zip(texts, labels, strict=True)]
    path.write_text("\n".join(json.dumps(r) for r in rows))
    return path


def test_single_sequences_are_padded_on_the_right_to_their_batchs_longest(
    tmp_path: Path, tokenizer: Path
) -> None:
    encoder = load_tokenizer(tokenizer)
    path = _classified(tmp_path, [0, 1, 0, 1, 1])
    samples = load(path, tokenizer=tokenizer, task="text-classification", sequence=24, batch=2)
    assert [len(b["input_ids"]) for b in samples.batches] == [2, 2, 1]
    for batch in samples.batches:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        lengths = mask.sum(axis=1)
        assert ids.shape[1] == lengths.max() <= 24
        np.testing.assert_array_equal(mask, np.arange(ids.shape[1]) < lengths[:, None])
        assert (ids[mask == 0] == encoder.pad_token_id).all()
        assert (ids[np.arange(len(ids)), lengths - 1] == encoder.sep_token_id).all()


def test_labels_follow_their_sequences(tmp_path: Path, tokenizer: Path) -> None:
    names = ["good", "bad", "good", "bad", "bad"]
    by_name = load(
        _classified(tmp_path, names),
        tokenizer=tokenizer,
        task="text-classification",
        label_ids={"bad": 0, "good": 1},
    )
    encoder = load_tokenizer(tokenizer)
    expected = {"a": 1, "width * height and more": 0, "café": 1, "return 1": 0}
    assert by_name.labels is not None
    seen = {}
    for batch, labels in zip(by_name.batches, by_name.labels, strict=True):
        for ids, label in zip(batch["input_ids"], labels, strict=True):
            seen[encoder.decode(ids, skip_special_tokens=True)] = int(label)
    assert expected.items() <= seen.items()


def test_one_missing_label_means_none(tmp_path: Path, tokenizer: Path) -> None:
    path = _classified(tmp_path, [0, 1, None, 1, 1])
    assert load(path, tokenizer=tokenizer, task="text-classification").labels is None


def test_a_seed_gives_one_order_and_another_seed_another(tmp_path: Path, tokenizer: Path) -> None:
    path = write_text_file(tmp_path)
    tasks: tuple[Task, ...] = ("fill-mask", "text-classification")
    for task in tasks:
        rows = [_rows(load(path, tokenizer=tokenizer, task=task, seed=s)) for s in (0, 0, 1)]
        assert rows[0] == rows[1]
        assert rows[0] != rows[2]


def test_the_amount_is_what_was_asked_for(tmp_path: Path, tokenizer: Path) -> None:
    for count in (1, 7, 8, 9):
        assert load(write_text_file(tmp_path), tokenizer=tokenizer, samples=count).count == count


@pytest.mark.parametrize("task", ["fill-mask", "text-classification"])
@pytest.mark.parametrize("sequence", [8, 16, 64])
def test_a_graph_of_fixed_shape_gets_whole_batches_of_that_shape(
    tmp_path: Path, tokenizer: Path, task: Task, sequence: int
) -> None:
    inputs = tuple(GraphInput(n, INT64, (4, 16)) for n in ("input_ids", "attention_mask"))
    samples = load(
        write_text_file(tmp_path),
        inputs=inputs,
        tokenizer=tokenizer,
        task=task,
        samples=10,
        batch=3,
        sequence=sequence,
    )
    assert [b["input_ids"].shape for b in samples.batches] == [(4, 16), (4, 16)]
    encoder = load_tokenizer(tokenizer)
    for batch in samples.batches:
        lengths = batch["attention_mask"].sum(axis=1)
        assert lengths.max() == min(sequence, 16)
        last = batch["input_ids"][np.arange(4), lengths - 1]
        assert (last == encoder.sep_token_id).all()


def test_other_inputs_are_made_from_the_ids(tmp_path: Path, tokenizer: Path) -> None:
    int32 = np.dtype(np.int32)
    names = ("token_type_ids", "position_ids", "input_ids", "attention_mask")
    inputs = tuple(GraphInput(n, int32, (None, None)) for n in names)
    (batch, *_) = load(write_text_file(tmp_path), inputs=inputs, tokenizer=tokenizer).batches
    assert tuple(batch) == names
    assert {a.dtype for a in batch.values()} == {int32}
    assert not batch["token_type_ids"].any()
    assert (batch["position_ids"] == np.arange(16)).all()


def test_arrays_come_in_their_order_with_their_labels(tmp_path: Path) -> None:
    x = np.arange(40, dtype=np.float64).reshape(10, 4)
    path = write_arrays(tmp_path, x=x, labels=np.arange(10), unused=np.zeros(3))
    samples = load(path, inputs=(X,), samples=7, batch=3)
    assert [len(b["x"]) for b in samples.batches] == [3, 3, 1]
    joined = np.concatenate([b["x"] for b in samples.batches])
    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined, x[:7])
    assert samples.labels is not None
    np.testing.assert_array_equal(np.concatenate(samples.labels), np.arange(7))
    assert (samples.name, samples.sha256) == ("data.npz", sha256_file(path))


def test_a_fixed_batch_drops_what_does_not_fill_one(tmp_path: Path) -> None:
    fixed = GraphInput("x", np.dtype(np.float32), (4, 4))
    path = write_arrays(tmp_path, x=np.zeros((10, 4), np.float32))
    assert [b["x"].shape for b in load(path, inputs=(fixed,), samples=9).batches] == [(4, 4)] * 2


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for index in (2, 0, 1):
        np.savez(tmp_path / f"part{index}.npz", x=np.full((3, 4), index, np.float32))
    samples = load(tmp_path, inputs=(X,), samples=7, batch=4)
    first = np.concatenate([b["x"][:, 0] for b in samples.batches])
    np.testing.assert_array_equal(first, [0, 0, 0, 1, 1, 1, 2])
    (tmp_path / "text").mkdir()
    for name, line in (("b.txt", "second"), ("a.jsonl", '{"text": "first"}')):
        (tmp_path / "text" / name).write_text(line)
    assert [e.text for e in read_examples(tmp_path / "text")] == ["first", "second"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_line_feeds_end_a_line(tmp_path: Path, mark: str) -> None:
    text = f"one{mark}line"
    path = tmp_path / "data.jsonl"
    row = json.dumps({"text": text}, ensure_ascii=False) if mark > "\x1f" else None
    path.write_text(f"{row or json.dumps({'text': text})}\r\n\n", encoding="utf-8", newline="")
    assert [e.text for e in read_examples(path)] == [text]
    plain = tmp_path / "data.txt"
    plain.write_text(f"{text}\r\ntwo\n", encoding="utf-8", newline="")
    assert [e.text for e in read_examples(plain)] == [text, "two"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes("\ufeffcafé\n".encode())
    assert [e.text for e in read_examples(path)] == ["café"]


def test_what_is_too_long_is_cut_at_its_end(tmp_path: Path, tokenizer: Path) -> None:
    """Also where the tokenizer's own configuration says otherwise."""
    encoder = load_tokenizer(tokenizer)
    encoder.truncation_side = encoder.padding_side = "left"
    encoder.save_pretrained(tmp_path / "left")
    text = "abcdefghijklmnopqrstuvwxyz0123456789"
    samples = load(
        write_text_file(tmp_path, [text]),
        tokenizer=tmp_path / "left",
        task="text-classification",
        sequence=10,
    )
    kept = encoder.decode(samples.batches[0]["input_ids"][0], skip_special_tokens=True)
    assert kept and text.startswith(kept)
