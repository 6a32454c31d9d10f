"""Figures of a task with their intervals, and what one configuration changes of another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deploy.harness.results import FlipsEntry
from deploy.harness.tasks import Aggregate, Answers
from deploy.profiling.scoring import Scores, gain, mcnemar, proportion
from deploy.profiling.statistics import CONFIDENCE, Estimate

_RESAMPLES = 1000
_SEED = 20260101


def figure_of(answers: Answers) -> Estimate:
    """Return the task's figure with its 95 % interval over items.

    Wilson's where each item is right or wrong; else items are drawn anew and aggregated as the
    task does (bootstrap).
    """
    if _right_or_wrong(answers.values):
        return proportion(int(sum(answers.values)), len(answers.values))
    found = _resampled(answers.aggregate, answers.values)
    return _estimate(answers.aggregate(list(answers.values)), found)


def change(reference: Answers, candidate: Answers) -> Estimate:
    """Return the candidate's figure less the reference's, over the same items, paired.

    Newcombe's where each item is right or wrong; else the same items are drawn on both sides.

    Raises:
        ValueError: If the items are not the same.
    """
    if reference.prompts != candidate.prompts:
        raise ValueError(f"{reference.task}: the items of the two configurations differ")
    if _right_or_wrong(reference.values) and _right_or_wrong(candidate.values):
        return gain(reference.values, candidate.values)
    before = _resampled(reference.aggregate, reference.values)
    after = _resampled(candidate.aggregate, candidate.values)
    whole = [a.aggregate(list(a.values)) for a in (candidate, reference)]
    return _estimate(whole[0] - whole[1], after - before)


def flips(reference: Answers, candidate: Answers) -> FlipsEntry | None:
    """Return how many answers turned right or wrong; None where items are neither.

    References:
        Dutta et al. 2024, arXiv:2407.09141: answers change where accuracy does not.
    """
    if not (_right_or_wrong(reference.values) and _right_or_wrong(candidate.values)):
        return None
    turned = np.asarray(candidate.values, float) - np.asarray(reference.values, float)
    sides = [
        Scores("accuracy", tuple(map(float, a.values)), (1,) * len(a.values))
        for a in (reference, candidate)
    ]
    gained, lost = int((turned > 0).sum()), int((turned < 0).sum())
    return FlipsEntry(gained=gained, lost=lost, p_value=mcnemar(*sides))


def _right_or_wrong(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float | np.number) and v in (0, 1) for v in values)


def _resampled(aggregate: Aggregate, values: Sequence[Any]) -> np.ndarray:
    drawn = np.random.default_rng(_SEED).integers(0, len(values), size=(_RESAMPLES, len(values)))
    return np.array([aggregate([values[i] for i in rows]) for rows in drawn], np.float64)


def _estimate(value: float, resampled: np.ndarray) -> Estimate:
    tails = [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]
    low, high = np.percentile(resampled, tails)
    return Estimate(float(value), float(low), float(high))
