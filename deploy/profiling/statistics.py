"""Percentiles, intervals and ratios of interleaved rounds.

Samples of one round share whatever else the machine was doing, and rounds of one launch share what
its process drew when it started, so intervals come from resampling launches and in each its whole
rounds, not single samples; a ratio resamples the same rounds on both sides, which is what makes it
paired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000
_SEED = 20260101
_MOST_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def quantile_ms(rounds_ns: Sequence[Sequence[int]], percent: float) -> float:
    """Return a percentile of all samples of all rounds, in milliseconds.

    Linear interpolation between order statistics (NumPy's default method).
    """
    pooled = np.concatenate([np.asarray(r, dtype=np.float64) for r in rounds_ns])
    return float(np.percentile(pooled, percent)) / 1e6


def median_ms(rounds_ns: Sequence[Sequence[int]], launches: int = 1) -> Estimate:
    """Return the median over all samples, in milliseconds, with its interval.

    Args:
        rounds_ns: Launch by launch.
        launches: That the rounds are spread over, equally many each.
    """
    return _estimate(rounds_ns, 50, launches)


def percentile_ms(
    rounds_ns: Sequence[Sequence[int]], percent: float, launches: int = 1
) -> Estimate | None:
    """Return a percentile over all samples, in milliseconds, with its interval.

    None where there are too few samples: see :func:`runs_needed`.
    """
    if sum(map(len, rounds_ns)) < runs_needed(percent):
        return None
    return _estimate(rounds_ns, percent, launches)


def runs_needed(percent: float) -> int:
    """Return the least number of samples that bound a percentile on both sides.

    The largest of n independent samples lies above the percentile q with probability 1 − qⁿ; that
    must be 97.5 %, or the upper end of a 95 % interval is not among the samples.

    Args:
        percent: 50 <= q < 100.
    """
    return math.ceil(math.log(_tails()[0] / 100) / math.log(percent / 100))


def _estimate(rounds_ns: Sequence[Sequence[int]], percent: float, launches: int) -> Estimate:
    found = _resampled(rounds_ns, drawn_rounds(len(rounds_ns), launches), percent)
    return estimate_from(quantile_ms(rounds_ns, percent), found / 1e6)


def speed_up(
    baseline_ns: Sequence[Sequence[int]], candidate_ns: Sequence[Sequence[int]], launches: int = 1
) -> Estimate:
    """Return median(baseline) ÷ median(candidate) with its paired interval.

    Args:
        baseline_ns: Rounds of the baseline.
        candidate_ns: Rounds of the candidate; round i ran beside the baseline's round i.
        launches: That the rounds of both are spread over.

    Returns:
        Above 1 where the candidate is faster.

    Raises:
        ValueError: If the two do not have the same number of rounds.
    """
    if len(baseline_ns) != len(candidate_ns):
        raise ValueError(f"{len(baseline_ns)} rounds cannot be paired with {len(candidate_ns)}")
    drawn = drawn_rounds(len(baseline_ns), launches)
    ratios = _resampled(baseline_ns, drawn, 50) / _resampled(candidate_ns, drawn, 50)
    return estimate_from(quantile_ms(baseline_ns, 50) / quantile_ms(candidate_ns, 50), ratios)


def ratio_apart(
    baseline_ns: Sequence[Sequence[int]],
    candidate_ns: Sequence[Sequence[int]],
    launches: tuple[int, int] = (1, 1),
) -> Estimate:
    """Return median(candidate) ÷ median(baseline) of rounds that did not run beside each other.

    Rounds are drawn anew on each side by itself. What changed on the machine between the two sides
    moves the value and is not in the interval.

    Args:
        baseline_ns: Rounds of the baseline.
        candidate_ns: Rounds of the candidate, however many.
        launches: Of each.

    Returns:
        Above 1 where the candidate is slower.
    """
    below = _resampled(baseline_ns, drawn_rounds(len(baseline_ns), launches[0]), 50)
    drawn = drawn_rounds(len(candidate_ns), launches[1], _SEED + 1)
    above = _resampled(candidate_ns, drawn, 50)
    value = quantile_ms(candidate_ns, 50) / quantile_ms(baseline_ns, 50)
    return estimate_from(value, above / below)


def estimate_from(value: float, resampled: np.ndarray) -> Estimate:
    """Return a value with the 95 % interval that resampling gives."""
    low, high = np.percentile(resampled, _tails())
    return Estimate(value, float(low), float(high))


def _tails() -> list[float]:
    return [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]


def drawn_rounds(rounds: int, launches: int, seed: int = _SEED) -> np.ndarray:
    """Return numbers of rounds, a row per set: of launches drawn anew, and in each of its rounds.

    Raises:
        ValueError: If the rounds cannot be spread equally.
    """
    each, rest = divmod(rounds, launches)
    if rest:
        raise ValueError(f"{rounds} rounds are not {launches} launches of equally many")
    draw = np.random.default_rng(seed)
    within = draw.integers(0, each, size=(RESAMPLES, launches, each))
    launch = draw.integers(0, launches, size=(RESAMPLES, launches, 1))
    return (launch * each + within).reshape(RESAMPLES, rounds)


def _resampled(rounds_ns: Sequence[Sequence[int]], drawn: np.ndarray, percent: float) -> np.ndarray:
    """Return a percentile of each drawn set of rounds; all rounds hold equally many samples.

    All samples are sorted once; a drawn set counts each sample as often as its round was drawn,
    so its order statistics are where the running count passes them.
    """
    samples = np.asarray(rounds_ns, dtype=np.float64)
    order = np.argsort(samples, axis=None)
    ordered, owner = samples.ravel()[order], order // samples.shape[1]
    position = percent / 100 * (samples.size - 1)
    below = math.floor(position)
    found = np.empty(len(drawn))
    step = max(1, _MOST_AT_ONCE // samples.size)
    for start in range(0, len(drawn), step):
        part = drawn[start : start + step]
        times_drawn = np.zeros((len(part), len(samples)), dtype=np.int32)
        np.add.at(times_drawn, (np.arange(len(part))[:, None], part), 1)
        running = np.cumsum(times_drawn[:, owner], axis=1, dtype=np.int32)
        low, high = (ordered[np.argmax(running > k, axis=1)] for k in (below, below + 1))
        found[start : start + step] = low + (position - below) * (high - low)
    return found
