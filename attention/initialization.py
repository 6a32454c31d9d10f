"""Start a BERT masked LM from the statistics of its text, so that a minute of training counts.

From random weights a masked LM spends its first hundreds of steps on what can
be counted instead: how frequent tokens are, which tokens stand together, and
that neighbours matter. Four changes of initial weights supply that; the
architecture stays BERT's, and every weight is trained.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attention.masked_lm import Tokens

_WORD_STD = 0.05
_POSITION_STD = 0.05
_LONGEST_WAVE = 64.0
_CONTEXT_POWER = 0.75
_DISTANCE_WEIGHTS = {1: 1.0, 2: 0.5}

Floats = NDArray[np.float32]


def start_from_text(model: Any, stream: Tokens) -> None:
    """Set the initial weights of a BertForMaskedLM from the token stream, in place.

    1. Output bias = log frequency, so that the loss starts at the unigram model's.
    2. Word embeddings, which are also the output weights, = ``co_occurrence_vectors``.
    3. Positions = sinusoids, the same in each head's slice; and head h of the first
       block looks at the token at distance −1, +1, −2, +2, … for h = 0, 1, 2, 3, …
       by rotating its queries, and passes it on. A shift by a constant is a rotation
       of sinusoids, the same at every position.
    4. The head's dense layer = identity + its random weights.

    Args:
        model: With an even head width D and C <= V; its random state is the global one.
        stream: Tokens of the training text; it takes about 30·V² bytes of memory.

    References:
        Sinusoids: Vaswani et al. 2017, arXiv:1706.03762, section 3.5. Starting
        attention near a known pattern: Trockman and Kolter 2023, arXiv:2305.09828.
    """
    config = model.config
    heads, width = config.num_attention_heads, config.hidden_size
    bert, head = model.bert, model.cls.predictions
    seen = torch.from_numpy(np.bincount(stream, minlength=config.vocab_size) > 0)
    vectors = torch.from_numpy(co_occurrence_vectors(stream, config.vocab_size, width))
    positions, frequencies = head_sinusoids(config.max_position_embeddings, heads, width // heads)
    identity = torch.eye(width)
    with torch.no_grad():
        head.bias.copy_(torch.from_numpy(log_frequencies(stream, config.vocab_size)))
        bert.embeddings.word_embeddings.weight[seen] = vectors[seen] * _WORD_STD
        bert.embeddings.position_embeddings.weight.copy_(torch.from_numpy(positions))
        first = bert.encoder.layer[0].attention
        turns = [shift_rotation(frequencies, shift) for shift in head_shifts(heads)]
        first.self.query.weight += torch.block_diag(*turns)
        for layer in (first.self.key, first.self.value, first.output.dense, head.transform.dense):
            layer.weight += identity


def log_frequencies(stream: Tokens, vocab_size: int) -> Floats:
    """Return the log of each token's frequency, every count raised by one, (V,)."""
    counts = np.bincount(stream, minlength=vocab_size) + 1.0
    result: Floats = np.log(counts / counts.sum()).astype(np.float32)
    return result


def co_occurrence_vectors(stream: Tokens, vocab_size: int, width: int) -> Floats:
    """Return one vector per token; tokens found beside the same tokens get similar ones.

    The positive pointwise mutual information of tokens at distances 1 and 2 (the
    latter counted half), factored as U·√S and rotated at random, so that every
    head's slice holds an equal part.

    Args:
        stream: Tokens.
        vocab_size: V.
        width: C <= V.

    Returns:
        (V, C) with standard deviation 1; zeros for tokens that do not occur.

    References:
        Levy and Goldberg 2014, "Neural word embedding as implicit matrix
        factorization"; context counts to the power 0.75: Levy et al. 2015, TACL 3.
    """
    joint = np.zeros((vocab_size, vocab_size), dtype=np.float32)
    for distance, weight in _DISTANCE_WEIGHTS.items():
        places = stream[:-distance] * vocab_size + stream[distance:]
        counts = np.bincount(places, minlength=joint.size).reshape(joint.shape)
        joint += np.float32(weight) * (counts + counts.T)
    rows = joint.sum(axis=1, keepdims=True, dtype=np.float64).astype(np.float32) + 1.0
    contexts = rows.T**_CONTEXT_POWER
    with np.errstate(divide="ignore"):
        information = np.log(joint, out=joint)  # -inf where a pair does not occur
    information -= np.log(rows)
    information -= np.log(contexts / contexts.sum())
    positive = torch.from_numpy(np.maximum(information, 0.0, out=information))
    left, singular, _ = torch.svd_lowrank(positive, q=width, niter=2)
    turn = torch.linalg.qr(torch.randn(width, width)).Q
    vectors = (left * singular.sqrt()) @ turn
    result: Floats = (vectors / vectors.std()).numpy()
    return result


def head_sinusoids(length: int, heads: int, head_width: int) -> tuple[Floats, Floats]:
    """Return sin and cos of position · frequency, repeated per head, and the frequencies.

    Returns:
        (T, C) with root mean square ``_POSITION_STD``; frequencies in radians per
        position, (D/2,), from 1 down to 1/64.
    """
    half = head_width // 2
    frequencies = _LONGEST_WAVE ** (-np.arange(half) / half)
    angles = np.arange(length)[:, None] * frequencies
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    table = np.tile(waves, (1, heads)) * np.sqrt(2.0) * _POSITION_STD
    return table.astype(np.float32), frequencies.astype(np.float32)


def head_shifts(heads: int) -> list[int]:
    """Return the distance each head looks at: −1, 1, −2, 2, …"""
    return [(h // 2 + 1) * (1 if h % 2 else -1) for h in range(heads)]


def shift_rotation(frequencies: Floats, shift: int) -> torch.Tensor:
    """Return the (D, D) matrix that takes the sinusoids of position t to those of t + shift."""
    sine = torch.diag(torch.from_numpy(np.sin(frequencies * shift)))
    cosine = torch.diag(torch.from_numpy(np.cos(frequencies * shift)))
    return torch.cat([torch.cat([cosine, sine], dim=1), torch.cat([-sine, cosine], dim=1)])
