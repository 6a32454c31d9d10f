"""Windows, masks and the masked-LM loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attention.masked_lm import (
    SPECIAL_TOKENS,
    draw_windows,
    mask_tokens,
    token_stream,
)
from attention.tokenizing import train_tokenizer
from trueint8.errors import DataError

TEXTS = ["def area(width, height):\n    return width * height\n" * 8, "naïve café, 1 + 2\n" * 8]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, 300, sequence=16)


def test_the_stream_is_the_text_without_special_tokens(tokenizer: Any) -> None:
    stream = token_stream(tokenizer, TEXTS, at_least=16)
    assert tokenizer.decode(stream.tolist()) == "".join(TEXTS)
    assert stream.min() >= len(SPECIAL_TOKENS)


def test_the_stream_is_whole_after_the_tokenizer_cut_and_padded_a_batch(tokenizer: Any) -> None:
    before = token_stream(tokenizer, TEXTS, at_least=16)
    tokenizer(["a", "b " * 50], truncation=True, max_length=4, padding="max_length")
    assert np.array_equal(token_stream(tokenizer, TEXTS, at_least=16), before)


def test_too_little_text_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError) as caught:
        token_stream(tokenizer, ["é"], at_least=16)
    assert caught.value.problem.endswith("tokens; at least 16 are needed")


def test_windows_are_framed_pieces_of_the_stream(tokenizer: Any) -> None:
    stream = np.arange(100, 120)
    ids = draw_windows(np.random.default_rng(0), tokenizer, stream, 400, 8)
    assert ids.shape == (400, 8)
    assert set(ids[:, 0]) == {tokenizer.cls_token_id}
    assert set(ids[:, -1]) == {tokenizer.sep_token_id}
    assert (np.diff(ids[:, 1:-1], axis=1) == 1).all()
    assert ids[:, 1].min() == 100
    assert ids[:, -2].max() == 119


def test_exactly_the_share_is_chosen_and_never_the_frame(tokenizer: Any) -> None:
    ids = np.full((8, 32), 77)
    ids[:, 0], ids[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
    inputs, where, wanted = mask_tokens(np.random.default_rng(0), tokenizer, ids, 0.15)
    assert len(where) == round(0.15 * 8 * 30)
    assert torch.equal(where, where.unique())
    assert set(wanted.tolist()) == {77}
    changed = inputs.numpy() != ids
    assert not changed[:, [0, -1]].any()
    assert set(np.flatnonzero(changed)) <= set(where.tolist())


def test_at_least_one_token_is_chosen(tokenizer: Any) -> None:
    ids = np.full((1, 8), 77)
    assert len(mask_tokens(np.random.default_rng(0), tokenizer, ids, 0.01)[1]) == 1


def test_eighty_ten_ten(tokenizer: Any) -> None:
    ids = np.full((200, 130), 77)
    inputs, where, _ = mask_tokens(np.random.default_rng(0), tokenizer, ids, 0.5)
    now = inputs.flatten()[where].numpy()
    masked = np.mean(now == tokenizer.mask_token_id)
    kept = np.mean(now == 77)
    assert masked == pytest.approx(0.8, abs=0.02)
    assert kept == pytest.approx(0.1, abs=0.02)
    random = now[(now != tokenizer.mask_token_id) & (now != 77)]
    assert random.min() >= len(SPECIAL_TOKENS)
    assert random.max() < len(tokenizer)
    assert len(np.unique(random)) > 200
