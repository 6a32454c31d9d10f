"""A small byte-level tokenizer, trained once."""

from __future__ import annotations

from pathlib import Path

import pytest

from attention.tokenizing import train_tokenizer

TEXTS = ["def area(width, height):\n    return width * height\n" * 8, "naïve café, 1 + 2\n" * 8]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tokenizer whose sequences are framed by [CLS] and [SEP]."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, 300, sequence=64).save_pretrained(folder)
    return folder
