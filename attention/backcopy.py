"""Bigram-backcopy: a synthetic language on which tiny decoders grow attention sinks.

Tokens follow a Markov chain; after one of three trigger tokens the next token is
the one before the trigger. A head that copies has something to do at triggers
only, and must attend to something everywhere else.

    chain: row-wise softmax of 1.5·N(0, 1); trigger columns × 4; no token leads to BOS,
    no trigger to a trigger; BOS (0) is the first token of every sequence.

References:
    Guo et al. 2024, arXiv:2410.13835.
"""

from __future__ import annotations

import numpy as np

VOCABULARY = 32
LENGTH = 48
TRIGGERS = (1, 2, 3)

IGNORED = -100
"""Target that takes no part in the loss."""

_CHAIN_SEED = 1234
_LOGIT_STD = 1.5
_TRIGGER_FACTOR = 4.0
_POOL = 20_000
_HELD_OUT = 512
_SEEDS = {"train": 1, "held-out": 2}


def transitions() -> np.ndarray:
    """Return the chain, (32, 32); rows sum to 1."""
    logits = _LOGIT_STD * np.random.default_rng(_CHAIN_SEED).normal(size=(VOCABULARY, VOCABULARY))
    chain = np.exp(logits)
    triggers = list(TRIGGERS)
    chain[:, 0] = 0.0
    chain[:, triggers] *= _TRIGGER_FACTOR
    chain[np.ix_(triggers, triggers)] = 0.0
    normalized: np.ndarray = chain / chain.sum(axis=1, keepdims=True)
    return normalized


def sequences(split: str) -> np.ndarray:
    """Return the training pool (20000, 48) or the held-out sequences (512, 48), int64."""
    rng = np.random.default_rng(_SEEDS[split])
    count = _POOL if split == "train" else _HELD_OUT
    cumulative = transitions().cumsum(axis=1)
    ids = np.zeros((count, LENGTH), dtype=np.int64)
    for t in range(1, LENGTH):
        last = ids[:, t - 1]
        drawn = (cumulative[last] < rng.random(count)[:, None]).sum(axis=1)
        ids[:, t] = np.minimum(drawn, VOCABULARY - 1)
        if t >= 3:  # a trigger right after BOS has nothing before it to copy
            copies = np.isin(last, TRIGGERS)
            ids[copies, t] = ids[copies, t - 2]
    return ids


def labels(ids: np.ndarray) -> np.ndarray:
    """Return targets of sequences (..., T): BOS predicts nothing, it is there to be attended to."""
    targets = ids.copy()
    targets[..., :2] = IGNORED
    return targets


def entropy() -> float:
    """Return the least loss any model can reach on the held-out sequences, nats per token."""
    ids, chain = sequences("held-out"), transitions()
    losses = np.zeros((len(ids), LENGTH - 2))
    for t in range(2, LENGTH):
        copies = np.isin(ids[:, t - 1], TRIGGERS) & (t >= 3)
        losses[:, t - 2] = np.where(copies, 0.0, -np.log(chain[ids[:, t - 1], ids[:, t]]))
    return float(losses.mean())
