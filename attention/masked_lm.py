"""Masked language modelling: windows of a token stream, what is masked, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from trueint8.errors import DataError

SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")
MASK_PROBABILITY = 0.15

_TO_MASK = 0.8
_TO_RANDOM = 0.1
_EVALUATION_SEED = 128
_EVALUATION_BATCH = 32

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


def masked_lm_loss(
    model: Any, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, windows: int = 512
) -> float:
    """Return the masked-LM loss in float32 on fixed windows and masks, with 15 % masked.

    The same model sequence, tokenizer, texts and ``windows`` mask the same tokens,
    so two models on one tokenizer can be compared.

    Returns:
        Mean over masked tokens, in nats.
    """
    length = int(model.config.max_position_embeddings)
    stream = token_stream(tokenizer, texts, at_least=length)
    rng = np.random.default_rng(_EVALUATION_SEED)
    total, count = 0.0, 0
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for first in range(0, windows, _EVALUATION_BATCH):
            rows = min(_EVALUATION_BATCH, windows - first)
            ids = draw_windows(rng, tokenizer, stream, rows, length)
            inputs, where, wanted = mask_tokens(rng, tokenizer, ids, MASK_PROBABILITY)
            total += float(masked_loss(model, inputs, where, wanted)) * wanted.numel()
            count += wanted.numel()
    model.train(was_training)
    return total / count


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


def masked_loss(
    model: Any, inputs: torch.Tensor, where: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """Return the mean cross-entropy; the head, C to V, runs at masked places only."""
    hidden = model.bert(input_ids=inputs).last_hidden_state  # (B, T, C)
    logits = model.cls(hidden.flatten(0, 1)[where])  # (M, V)
    return torch.nn.functional.cross_entropy(logits.float(), wanted)


def unigram_loss(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], held_out: Sequence[str]
) -> float:
    """Return the held-out loss of knowing nothing but how frequent tokens are, in nats.

    Counts come from ``texts``, each raised by one.
    """
    counts = np.bincount(token_stream(tokenizer, texts, at_least=1), minlength=len(tokenizer))
    surprise = -np.log((counts + 1.0) / (counts + 1.0).sum())
    return float(surprise[token_stream(tokenizer, held_out, at_least=1)].mean())
