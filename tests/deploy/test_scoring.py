"""Drops per metric, redone by hand, with paired intervals over sequences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from deploy.profiling.evaluation import IGNORED, EvaluationSet
from deploy.profiling.scoring import (
    Metric,
    Scores,
    accuracy_figures,
    bounded,
    drop,
    gain,
    interval,
    mcnemar,
    recovery,
    score,
    scores_from,
)
from trueint8.errors import DataError, RunError

Arrays = Mapping[str, np.ndarray]
CLASSES = 5


def logits_of(batch: Arrays) -> dict[str, np.ndarray]:
    """Return logits (B, T, classes) that depend on the ids alone."""
    table = np.random.default_rng(3).standard_normal((10, CLASSES)).astype(np.float32)
    return {"logits": table[batch["input_ids"]]}


def tokens() -> EvaluationSet:
    draw = np.random.default_rng(0)
    ids = [draw.integers(0, 10, (rows, 6)) for rows in (3, 2)]
    targets = [
        np.where(draw.random(i.shape) < 0.5, draw.integers(0, 5, i.shape), IGNORED) for i in ids
    ]
    targets[0][1] = IGNORED  # a sequence of which nothing counts
    return EvaluationSet("tokens", [{"input_ids": i} for i in ids], targets)


def test_scores_per_sequence_add_up_to_the_metric() -> None:
    data = tokens()
    found = score(logits_of, data)
    losses = []
    for batch, targets in zip(data.batches, data.targets, strict=True):
        logits = logits_of(batch)["logits"].astype(np.float64)
        for place in zip(*np.nonzero(targets != IGNORED), strict=True):
            chosen = np.exp(logits[place]) / np.exp(logits[place]).sum()
            losses.append(-np.log(chosen[targets[place]]))
    perplexity, loss = accuracy_figures(found)
    assert loss.value == pytest.approx(np.mean(losses), rel=1e-12)
    assert perplexity.value == found.value == pytest.approx(np.exp(np.mean(losses)), rel=1e-12)
    assert (loss.samples, loss.positions) == (5, len(losses))
    expected = [int((row != IGNORED).sum()) for t in data.targets for row in t]
    assert list(found.counts) == expected and found.counts[1] == 0 and found.sums[1] == 0.0
    assert scores_from({"metric": "perplexity", "sums": [1.0], "counts": [2]}).counts == (2,)


def test_cosines_count_unpadded_positions_of_each_sequence() -> None:
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    data = EvaluationSet(
        "cosine", [{"input_ids": np.ones((2, 4), int), "attention_mask": mask}], []
    )
    same = score(logits_of, data)
    assert same.counts == (3, 1)
    assert same.value == pytest.approx(1.0)
    opposite = [-logits_of(data.batches[0])["logits"][mask.astype(bool)]]
    assert score(logits_of, data, opposite).value == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("metric", "reference", "candidate", "lost"),
    [
        ("perplexity", 2.0, 2.1, 100 * (np.exp(0.1) - 1)),
        ("accuracy", 0.75, 0.5, 25.0),
        ("cosine", 1.0, 0.995, 0.5),
    ],
)
def test_a_drop_is_percent_of_perplexity_or_points(
    metric: Metric, reference: float, candidate: float, lost: float
) -> None:
    a, b = (Scores(metric, (v * 4,) * 8, (4,) * 8) for v in (reference, candidate))
    for estimate, sign in ((drop(a, b), 1), (recovery(a, b, a), 1), (recovery(a, a, b), -1)):
        assert estimate.value == pytest.approx(sign * lost)
        assert estimate.low == pytest.approx(estimate.high) == pytest.approx(sign * lost)


def test_a_share_has_the_interval_of_the_score_test() -> None:
    for hits, count in ((0, 20), (13, 20), (20, 20)):
        found = interval(Scores("accuracy", (1.0,) * hits + (0.0,) * (count - hits), (1,) * count))
        assert found.value == hits / count
        for end in (found.low, found.high):
            if end not in (0.0, 1.0):  # where the normal test of this share just rejects it
                z = (found.value - end) / np.sqrt(end * (1 - end) / count)
                assert abs(z) == pytest.approx(1.959964, abs=1e-5)
        assert found.low < found.high


@pytest.mark.parametrize("metric", ["perplexity", "cosine"])
def test_intervals_over_sequences_hold_the_true_value_about_as_often_as_they_say(
    metric: Metric,
) -> None:
    draw, held, runs = np.random.default_rng(4), 0, 200
    for _ in range(runs):
        counts = draw.integers(1, 9, 80)
        sums = draw.normal(0.3, 0.1, 80) * counts
        found = interval(Scores(metric, tuple(sums), tuple(int(c) for c in counts)))
        truth = np.exp(0.3) if metric == "perplexity" else 0.3
        held += found.low <= truth <= found.high
    assert 0.88 * runs < held < 0.99 * runs


def test_every_figure_carries_its_interval() -> None:
    perplexity, loss = accuracy_figures(score(logits_of, tokens()))
    assert perplexity.low is not None and perplexity.high is not None
    assert perplexity.low < perplexity.value < perplexity.high
    assert (loss.low, loss.high) == pytest.approx(tuple(np.log([perplexity.low, perplexity.high])))


def test_a_gain_is_paired_and_never_certain() -> None:
    draw = np.random.default_rng(5)
    right = (draw.random(100) < 0.6).astype(float).tolist()
    same = gain(right, right)
    assert same.value == 0.0 and -0.04 < same.low < 0.0 < same.high < 0.04
    other = [1 - value for value in right[:10]] + right[10:]
    forth, back = gain(right, other), gain(other, right)
    assert (forth.value, forth.low, forth.high) == pytest.approx(
        (-back.value, -back.high, -back.low)
    )
    unpaired = gain(right, draw.permutation(other).tolist())
    assert forth.high - forth.low < unpaired.high - unpaired.low
    assert gain([0] * 9, [1] * 9).value == 1.0 > gain([0] * 9, [1] * 9).low


def test_gains_hold_the_true_difference_about_as_often_as_they_say() -> None:
    draw, held, runs = np.random.default_rng(6), 0, 400
    for _ in range(runs):
        before = draw.random(60) < 0.7
        after = np.where(draw.random(60) < 0.1, draw.random(60) < 0.4, before)
        found = gain(before.tolist(), after.tolist())
        held += found.low <= 0.1 * (0.4 - 0.7) <= found.high
    assert 0.92 * runs < held


def test_no_label_lost_is_no_proof_that_none_would_be() -> None:
    same = Scores("accuracy", (1.0,) * 40 + (0.0,) * 24, (1,) * 64)
    found = drop(same, same)
    assert found.value == 0.0 and -5 < found.low < 0.0 < found.high < 5


def test_the_interval_is_paired() -> None:
    draw = np.random.default_rng(1)
    easy = draw.normal(0, 5, 64)  # sequences differ far more than the two graphs do
    reference = Scores("perplexity", tuple(easy), (1,) * 64)
    candidate = Scores("perplexity", tuple(easy + draw.normal(0.01, 0.001, 64)), (1,) * 64)
    found = drop(reference, candidate)
    assert 0.9 < found.low < found.value < found.high < 1.1


def test_scores_that_are_kept_are_bounded_and_mean_the_same() -> None:
    draw = np.random.default_rng(2)
    counts = tuple(int(c) for c in draw.integers(1, 9, 5001))
    many = Scores("perplexity", tuple(draw.random(5001) * counts), counts)
    kept = bounded(many)
    assert len(kept.counts) == len(kept.sums) == 1667  # of 3 each
    assert sum(kept.counts) == sum(counts)
    assert kept.value == pytest.approx(many.value, rel=1e-12)
    few = Scores("accuracy", (1.0, 0.0), (1, 1))
    assert bounded(few) == few


def test_what_cannot_be_scored_is_refused() -> None:
    data = tokens()
    nothing = EvaluationSet(
        "tokens", data.batches, [np.full_like(t, IGNORED) for t in data.targets]
    )
    with pytest.raises(DataError, match="no token"):
        score(logits_of, nothing)
    with pytest.raises(RunError, match="perplexity is not finite"):
        score(lambda b: {"x": logits_of(b)["logits"] * np.float32(np.nan)}, data)


def test_mcnemar_counts_only_where_one_side_alone_is_right() -> None:
    both, one = (1,) * 5, (1,) * 20
    reference = Scores("accuracy", (1.0,) * 5 + (1.0,) * 9 + (0.0,) * 1 + (0.0,) * 10, both + one)
    candidate = Scores("accuracy", (1.0,) * 5 + (0.0,) * 9 + (1.0,) * 1 + (0.0,) * 10, both + one)
    assert mcnemar(reference, candidate) == pytest.approx(2 * 11 / 1024)
    assert mcnemar(candidate, reference) == pytest.approx(2 * 11 / 1024)
    assert mcnemar(reference, reference) == 1.0
