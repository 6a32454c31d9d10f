"""Accuracy per sequence, and what quantization takes from it, with paired intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from deploy.profiling.evaluation import IGNORED, EvaluationSet, Run, output_vectors, position_scores
from deploy.profiling.results import Accuracy
from deploy.profiling.statistics import CONFIDENCE, Estimate
from trueint8.errors import DataError, RunError

Metric = Literal["perplexity", "accuracy", "cosine"]

DropUnit = Literal["%", "points"]

DROP_UNIT: dict[Metric, DropUnit] = {"perplexity": "%", "accuracy": "points", "cosine": "points"}
METRIC_OF: dict[str, Metric] = {"tokens": "perplexity", "labels": "accuracy", "cosine": "cosine"}

_RESAMPLES = 1000
_MOST_KEPT = 2048
_SEED = 20260101


@dataclass(frozen=True, slots=True)
class Scores:
    """One graph on one evaluation set.

    Attributes:
        metric: What the mean of the scores gives.
        sums: Per sequence, of losses, hits or cosines.
        counts: Per sequence, positions that count.
    """

    metric: Metric
    sums: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def value(self) -> float:
        """The metric over all positions."""
        mean = sum(self.sums) / sum(self.counts)
        return float(np.exp(mean)) if self.metric == "perplexity" else mean


def score(run: Run, data: EvaluationSet, expected: Sequence[np.ndarray] | None = None) -> Scores:
    """Evaluate a graph.

    Args:
        run: Inference of it.
        data: Batches and targets.
        expected: Output vectors of the float graph, per batch; its own where this is the float
            graph itself.

    Raises:
        DataError: If no position counts.
        RunError: If a score is not finite.
    """
    metric = METRIC_OF[data.target]
    if expected is None and data.target == "cosine":
        expected = output_vectors(run, data)
    sums: list[float] = []
    counts: list[int] = []
    for index, scores in enumerate(position_scores(run, data, expected or ())):
        if not np.isfinite(scores).all():
            raise RunError(
                f"{metric} is not finite: the outputs overflow", fix="check the float model"
            )
        per_sequence = _positions(data, index, len(scores))
        owner = np.repeat(np.arange(len(per_sequence)), per_sequence)
        sums += np.bincount(owner, weights=scores, minlength=len(per_sequence)).tolist()
        counts += per_sequence.tolist()
    if not sum(counts):
        raise DataError("no token of the evaluation data counts", fix="pass more text")
    return Scores(metric, tuple(sums), tuple(counts))


def accuracy_figures(scores: Scores) -> list[Accuracy]:
    """Return the metric over all positions, and for perplexity the loss behind it.

    Raises:
        RunError: If it is not finite.
    """
    if not np.isfinite(scores.value):
        raise RunError(
            f"{scores.metric} is {scores.value}: the outputs overflow", fix="check the float model"
        )
    over = {"samples": len(scores.counts), "positions": sum(scores.counts)}
    ends = interval(scores)
    found = [
        Accuracy(metric=scores.metric, value=scores.value, low=ends.low, high=ends.high, **over)
    ]
    if scores.metric == "perplexity":
        loss = sum(scores.sums) / sum(scores.counts)
        low, high = math.log(ends.low), math.log(ends.high)
        found.append(Accuracy(metric="loss", value=loss, low=low, high=high, **over))
    return found


def interval(scores: Scores) -> Estimate:
    """Return the metric with its 95 % interval over sequences.

    Of accuracy with one label per sequence it is Wilson's; of everything else, and of the loss
    behind a perplexity, sequences are drawn anew (bootstrap), losses and all.
    """
    if _one_label_each(scores):
        return proportion(int(sum(scores.sums)), len(scores.sums))
    exponent = np.exp if scores.metric == "perplexity" else np.asarray
    return _estimate(exponent, (scores,))


def proportion(hits: int, count: int) -> Estimate:
    """Return hits ÷ count with its 95 % score interval, which is wide at 0 and 1 too.

    References:
        Wilson 1927, JASA 22(158).
    """
    from scipy.stats import binomtest

    found = binomtest(hits, count).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(hits / count, float(found.low), float(found.high))


def gain(reference: Sequence[float], candidate: Sequence[float]) -> Estimate:
    """Return the mean of ``candidate`` less that of ``reference`` with its 95 % interval.

    Both hold 0 or 1 of the same items in the same order. The interval joins those of the two
    proportions by their correlation; where no item differs it is narrow and not empty, which
    that of a bootstrap would be.

    References:
        Newcombe 1998, Statistics in Medicine 17(22), method 10.
    """
    before, after = np.asarray(reference, bool), np.asarray(candidate, bool)
    count = len(before)
    both, neither = int((before & after).sum()), int((~before & ~after).sum())
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    a, b = proportion(both + gained, count), proportion(both + lost, count)
    scale = float(
        np.sqrt(1.0 * (both + lost) * (gained + neither) * (both + gained) * (lost + neither))
    )
    product = both * neither - lost * gained
    joined = max(product - count / 2, 0.0) if product > 0 else float(product)
    phi = joined / scale if scale else 0.0

    def margin(x: float, y: float) -> float:
        return float(np.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0)))

    difference = a.value - b.value
    return Estimate(
        difference,
        difference - margin(a.value - a.low, b.high - b.value),
        difference + margin(a.high - a.value, b.value - b.low),
    )


def bounded(scores: Scores) -> Scores:
    """Return the scores with neighbours added up until there are at most 2048 of them.

    Intervals then resample groups of sequences, which is as valid.
    """
    step = -(-len(scores.counts) // _MOST_KEPT)
    starts = range(0, len(scores.counts), step)
    return Scores(
        scores.metric,
        tuple(sum(scores.sums[i : i + step]) for i in starts),
        tuple(sum(scores.counts[i : i + step]) for i in starts),
    )


def scores_from(stored: Mapping[str, Any]) -> Scores:
    """Return scores that were stored as JSON."""
    return Scores(stored["metric"], tuple(stored["sums"]), tuple(stored["counts"]))


def drop(reference: Scores, candidate: Scores) -> Estimate:
    """Return what a candidate loses against the float graph, above 0 where it is worse.

        perplexity:  100·(p_candidate / p_float − 1)   percent
        accuracy:    100·(a_float − a_candidate)       points
        cosine:      100·(1 − mean cosine)             points

    The 95 % interval resamples sequences, the same ones on both sides (paired bootstrap); of
    accuracy with one label per sequence it is that of :func:`gain`.
    """
    if _one_label_each(reference) and _one_label_each(candidate):
        found = gain(candidate.sums, reference.sums)
        return Estimate(100 * found.value, 100 * found.low, 100 * found.high)
    return _estimate(_lost(reference.metric), (reference, candidate))


def recovery(reference: Scores, worse: Scores, better: Scores) -> Estimate:
    """Return the drop of ``worse`` less that of ``better``, on the same sequences."""
    lost = _lost(reference.metric)
    return _estimate(lambda f, w, b: lost(f, w) - lost(f, b), (reference, worse, better))


def mcnemar(reference: Scores, candidate: Scores) -> float:
    """Return the probability of disagreements as uneven as these if neither were better.

    Two-sided and exact, over sequences that one side alone has right.

    Args:
        reference: Accuracy with one label per sequence.
        candidate: On the same sequences.

    References:
        McNemar 1947, Psychometrika 12(2).
    """
    from scipy.stats import binomtest

    gained = np.asarray(candidate.sums) - np.asarray(reference.sums)
    better, worse = int((gained > 0).sum()), int((gained < 0).sum())
    if not better + worse:
        return 1.0
    return float(binomtest(better, better + worse).pvalue)


def _one_label_each(scores: Scores) -> bool:
    return scores.metric == "accuracy" and set(scores.counts) == {1}


def _lost(metric: Metric) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the drop as a function of mean scores: of the float graph and of a candidate."""
    if metric == "perplexity":
        return lambda f, c: 100 * np.expm1(c - f)
    return lambda f, c: 100 * (f - c)


def _estimate(figure: Callable[..., np.ndarray], scores: Sequence[Scores]) -> Estimate:
    count = len(scores[0].counts)
    drawn = np.random.default_rng(_SEED).integers(0, count, size=(_RESAMPLES, count))
    whole = np.arange(count)[None]
    positions = np.asarray(scores[0].counts, np.float64)

    def means(rows: np.ndarray) -> list[np.ndarray]:
        total = np.maximum(positions[rows].sum(axis=1), 1.0)
        return [np.asarray(s.sums)[rows].sum(axis=1) / total for s in scores]

    tails = [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]
    low, high = np.percentile(figure(*means(drawn)), tails)
    return Estimate(float(figure(*means(whole))[0]), float(low), float(high))


def _positions(data: EvaluationSet, index: int, total: int) -> np.ndarray:
    """Return how many of a batch's ``total`` scores belong to each of its sequences."""
    batch = data.batches[index]
    rows = len(next(iter(batch.values())))
    if data.target == "tokens":
        found: np.ndarray = (data.targets[index] != IGNORED).sum(axis=1)
        return found
    mask = batch.get("attention_mask")
    if mask is not None and total != rows and mask.sum() == total:
        kept: np.ndarray = mask.sum(axis=1)
        return kept
    return np.full(rows, total // rows)
