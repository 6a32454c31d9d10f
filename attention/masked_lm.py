"""Masked language modelling: windows of a token stream, and what is masked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from trueint8.errors import DataError

SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")

_TO_MASK = 0.8
_TO_RANDOM = 0.1

Tokens = NDArray[np.int64]


def token_stream(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, at_least: int
) -> Tokens:
    """Return all documents as one array of tokens without special ones.

    Raises:
        DataError: If there are fewer than ``at_least`` tokens.
    """
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.no_truncation()  # an earlier call may have left either in the tokenizer
    core.no_padding()
    encoded = core.encode_batch_fast(list(texts), add_special_tokens=False)
    stream = np.fromiter((t for e in encoded for t in e.ids), dtype=np.int64)
    if stream.size < at_least:
        raise DataError(
            f"the text has {stream.size} tokens; at least {at_least} are needed",
            fix="give more text",
        )
    return stream


def draw_windows(
    rng: np.random.Generator,
    tokenizer: PreTrainedTokenizerFast,
    stream: Tokens,
    rows: int,
    length: int,
) -> Tokens:
    """Return (rows, length) windows at random places of the stream, framed by [CLS], [SEP]."""
    starts = rng.integers(0, stream.size - (length - 2) + 1, size=rows)
    ids = np.empty((rows, length), dtype=np.int64)
    ids[:, 0] = tokenizer.cls_token_id
    ids[:, 1:-1] = stream[starts[:, None] + np.arange(length - 2)]
    ids[:, -1] = tokenizer.sep_token_id
    return ids


def mask_tokens(
    rng: np.random.Generator, tokenizer: PreTrainedTokenizerFast, ids: Tokens, probability: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Choose tokens to predict; 80 % become [MASK], 10 % a random token, 10 % stay.

    Exactly the share ``probability`` of a batch is chosen, at least one token, so
    that every batch has the same shapes.

    Args:
        rng: Source of randomness; advanced.
        tokenizer: Names [MASK] and the special tokens, which take no part.
        ids: (B, T), framed by one special token on either side.
        probability: 0 < probability < 1.

    Returns:
        Inputs (B, T); flat places of the chosen tokens, ascending (M,); what was there (M,).

    References:
        Devlin et al. 2019, arXiv:1810.04805, section 3.1.
    """
    inner = np.arange(ids.size).reshape(ids.shape)[:, 1:-1].reshape(-1)
    chosen = max(1, round(probability * inner.size))
    where = np.sort(rng.choice(inner, size=chosen, replace=False))
    inputs = ids.reshape(-1).copy()
    wanted = inputs[where]
    fate = rng.random(chosen)
    substitute = rng.integers(len(SPECIAL_TOKENS), len(tokenizer), size=chosen)
    masked = fate < _TO_MASK
    random = (fate >= _TO_MASK) & (fate < _TO_MASK + _TO_RANDOM)
    inputs[where[masked]] = tokenizer.mask_token_id
    inputs[where[random]] = substitute[random]
    return (
        torch.from_numpy(inputs.reshape(ids.shape)),
        torch.from_numpy(where),
        torch.from_numpy(wanted),
    )
