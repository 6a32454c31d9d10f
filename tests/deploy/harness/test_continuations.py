"""The scorer, with a model whose likelihoods are known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from calib.inputs import GraphInput
from deploy.harness.continuations import ContinuationScorer, Limits
from trueint8.errors import RunError

VOCABULARY = 11
INPUTS = [
    GraphInput("input_ids", np.dtype(np.int64), (None, None)),
    GraphInput("attention_mask", np.dtype(np.int64), (None, None)),
    GraphInput("position_ids", np.dtype(np.int64), (None, None)),
]


class Bigram:
    """Logits of the next token from the one before and from its place, and what was asked."""

    def __init__(self) -> None:
        self.table = np.random.default_rng(0).standard_normal((VOCABULARY, VOCABULARY)) * 3
        self.batches: list[Mapping[str, np.ndarray]] = []

    def logits(self, ids: np.ndarray, places: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.table[ids] * (1 + places[..., None] / 7)
        return found

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.batches.append(arrays)
        logits = self.logits(arrays["input_ids"], arrays["position_ids"])
        return {"logits": logits.astype(np.float32)}

    def expected(self, context: list[int], continuation: list[int], most: int) -> float:
        tokens = np.array([*context, *continuation][-(most + 1) :])
        logits = self.logits(tokens[:-1], np.arange(len(tokens) - 1))
        chosen = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        picked = chosen[np.arange(len(tokens) - 1), tokens[1:]]
        return float(np.log(picked[-len(continuation) :]).sum())


@pytest.mark.parametrize("limits", [Limits((1, 4), (1, 8)), Limits((4, 4), (8, 8))])
def test_likelihoods_are_those_of_the_last_tokens(limits: Limits) -> None:
    draw = np.random.default_rng(1)
    pairs = [
        (draw.integers(0, 11, n).tolist(), draw.integers(0, 11, m).tolist())
        for n, m in ((1, 1), (3, 2), (6, 3), (20, 4), (2, 8), (5, 1), (4, 4))
    ]
    model = Bigram()
    done: list[int] = []
    scorer = ContinuationScorer(model.run, INPUTS, limits)
    found = scorer.score(pairs, done.append)
    assert sum(done) == len(pairs)
    for (value, _), (context, continuation) in zip(found, pairs, strict=True):
        assert value == pytest.approx(model.expected(context, continuation, 8), abs=1e-5)
    assert scorer.truncated == 2
    shapes = {b["input_ids"].shape for b in model.batches}
    if limits.rows[0] == 4:
        assert shapes == {(4, 8)}, "a model of one shape gets that shape"
    assert all(r <= 4 and t <= 8 for r, t in shapes)
    for batch in model.batches:
        lengths = batch["attention_mask"].sum(1, keepdims=True)
        places = np.arange(batch["input_ids"].shape[1])
        np.testing.assert_array_equal(batch["attention_mask"], places < lengths)


def test_pairs_with_equal_input_share_a_row() -> None:
    model = Bigram()
    scorer = ContinuationScorer(model.run, INPUTS, Limits((1, 64), (1, 8)))
    found = scorer.score([([1, 2, 3], [token]) for token in range(VOCABULARY)], lambda _: None)
    assert [b["input_ids"].shape for b in model.batches] == [(1, 3)]
    assert np.exp([value for value, _ in found]).sum() == pytest.approx(1.0, abs=1e-6)
    best = int(np.argmax([value for value, _ in found]))
    assert [greedy for _, greedy in found] == [token == best for token in range(VOCABULARY)]


def test_outputs_that_are_no_logits_are_refused() -> None:
    scorer = ContinuationScorer(
        lambda arrays: {"pooled": np.zeros((1, 4))}, INPUTS, Limits((1, 4), (1, 8))
    )
    with pytest.raises(RunError, match="not \\(1, 1\\) and the vocabulary"):
        scorer.score([([1], [2])], lambda _: None)
    broken = ContinuationScorer(
        lambda arrays: {"logits": np.full((1, 1, 9), np.nan)}, INPUTS, Limits((1, 4), (1, 8))
    )
    with pytest.raises(RunError, match="not finite"):
        broken.score([([1], [2])], lambda _: None)
