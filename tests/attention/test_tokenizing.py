"""The tokenizer that is trained on the text at hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attention.masked_lm import SPECIAL_TOKENS
from attention.tokenizing import train_tokenizer
from trueint8.errors import ConfigError, DataError


def documents(count: int = 30) -> list[str]:
    """Return text in which neighbours tell much about a word."""
    rng = np.random.default_rng(0)
    names = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    lines = ["def {0}(x):\n    return {0}_table[x]\n", "{0} = {0} + 1\n", "print({0}, {0})\n"]
    return ["".join(rng.choice(lines).format(rng.choice(names)) for _ in range(12))] * 2 + [
        "".join(rng.choice(lines).format(rng.choice(names)) for _ in range(12))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(documents(), 320, sequence=16)


def test_the_tokenizer_gives_back_any_text(tokenizer: Any) -> None:
    for text in ("def f(x):\n\treturn x", "naïve café 漢字 🙂", "\x00\x7f", " two  spaces "):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_special_tokens_come_first_and_frame_a_text(tokenizer: Any) -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4]
    ids = tokenizer("alpha")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    pair = tokenizer("alpha", "beta")["input_ids"]
    assert pair.count(tokenizer.sep_token_id) == 2


def test_batches_are_padded_on_the_right_and_cut_to_the_sequence(tokenizer: Any) -> None:
    batch = tokenizer(["alpha", "alpha " * 50], padding=True, truncation=True)
    assert list(batch) == ["input_ids", "attention_mask"]
    assert [len(row) for row in batch["input_ids"]] == [16, 16]
    assert batch["input_ids"][0][-1] == tokenizer.pad_token_id
    assert batch["attention_mask"][0][0] == 1
    assert batch["attention_mask"][0][-1] == 0


def test_the_same_text_gives_the_same_tokenizer() -> None:
    first, again = (train_tokenizer(documents(), 320) for _ in range(2))
    assert again.backend_tokenizer.to_str() == first.backend_tokenizer.to_str()


def test_a_tokenizer_needs_text_and_room_for_every_byte() -> None:
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        train_tokenizer([""], 320)
    with pytest.raises(ConfigError, match="vocab_size=260 is out of range; expected .* >= 261"):
        train_tokenizer(["text"], 260)
