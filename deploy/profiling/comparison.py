"""Which of two is faster, decided from launches that ran beside each other.

A process keeps what it drew when it started (addresses, placement of its threads), so rounds of
one process say nothing of the next. Both sides are therefore launched anew several times, and
the launch is the unit:

    dᵢ = median over rounds of log(tA/tB) in launch i;   ratio = exp(mean d ± t·sd(d)/√n)

Launches that did not run beside each other are two samples of logs of times, which may vary
differently (Welch); what the machine did in between is not in them, so an allowance is added.

References:
    Kalibera and Jones 2013, "Rigorous benchmarking in reasonable time", ISMM (repetition at the
    level where the variation arises).
    Welch 1947, "The generalization of 'Student's' problem when several different population
    variances are involved", Biometrika 34.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import t as student

from deploy.profiling.statistics import Estimate

Verdict = Literal["faster", "slower", "no evidence"]
Rounds = Sequence[Sequence[int]]
"""Times of one process in ns, a list per round."""

SHOWN = 0.95
DECIDING = 0.99
POWER = 0.8
LEAST_LAUNCHES = 4
APART = 0.01
"""Deviation, as a share, that one quiet machine may have between two calls at different times."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A.

    Attributes:
        ratio: Time of A ÷ time of B with its 95 % interval; above 1 where B is faster.
        deciding: The same with the 99 % interval that the verdict is taken from.
        control: A against itself in other processes, likewise with 95 %.
        stable: Whether 1 lies in the control's 99 % interval.
        detectable: The least effect, as a share, that such a run calls by its name four times
            out of five.
        launches: How many launches of both; of the side that has fewer.
        paired: Whether launches of both ran beside each other.
    """

    ratio: Estimate
    deciding: Estimate
    control: Estimate
    stable: bool
    detectable: float
    launches: int
    paired: bool = True

    @property
    def verdict(self) -> Verdict:
        """What is known of B: nothing, where 1 lies in the interval or the run is not stable."""
        if not self.stable or self.deciding.low <= 1 <= self.deciding.high:
            return "no evidence"
        return "faster" if self.deciding.low > 1 else "slower"


def compare_launches(
    a: Sequence[Rounds], b: Sequence[Rounds], control: Sequence[Rounds]
) -> Comparison:
    """Compare two sides, launch by launch.

    Args:
        a: Rounds of each launch of A.
        b: The same of B; round r of launch i ran beside round r of launch i of A.
        control: The same of A in yet other processes.

    Raises:
        ValueError: If the numbers of launches differ, or are fewer than 4.
    """
    if not len(a) == len(b) == len(control):
        raise ValueError(f"{len(a)}, {len(b)} and {len(control)} launches cannot be paired")
    if len(a) < LEAST_LAUNCHES:
        raise ValueError(f"{len(a)} launches give no interval; {LEAST_LAUNCHES} are needed")
    logs = [log_ratio(x, y) for x, y in zip(a, b, strict=True)]
    idle = [log_ratio(x, y) for x, y in zip(a, control, strict=True)]
    deciding, sure = interval(logs, DECIDING), interval(idle, DECIDING)
    return Comparison(
        ratio=interval(logs, SHOWN),
        deciding=deciding,
        control=interval(idle, SHOWN),
        stable=sure.low <= 1 <= sure.high,
        detectable=detectable_effect(logs),
        launches=len(a),
    )


def compare_stored(a: Sequence[Rounds], b: Sequence[Rounds], *, paired: bool) -> Comparison:
    """Compare launches that were stored; every second one of A is held against A's others.

    Args:
        a: Rounds of each launch of A.
        b: The same of B.
        paired: Whether round r of launch i ran beside round r of launch i of A.

    Raises:
        ValueError: If there are fewer than 4 of either, or paired ones differ in number.
    """
    if min(len(a), len(b)) < LEAST_LAUNCHES:
        raise ValueError(f"{len(a)} and {len(b)} launches; {LEAST_LAUNCHES} of both are needed")
    if paired:
        spread = _spread([log_ratio(x, y) for x, y in zip(a, b, strict=True)])
    else:
        spread = _difference(_log_times(a), _log_times(b), allowance=APART)
    logs = _log_times(a)
    idle = _of_one_kind(logs[::2], logs[1::2])
    deciding, sure = spread.interval(DECIDING), idle.interval(DECIDING)
    return Comparison(
        ratio=spread.interval(SHOWN),
        deciding=deciding,
        control=idle.interval(SHOWN),
        stable=sure.low <= 1 <= sure.high,
        detectable=spread.detectable(),
        launches=min(len(a), len(b)),
        paired=paired,
    )


def log_ratio(a: Rounds, b: Rounds) -> float:
    """Return the median over rounds of the log of A's median time ÷ B's."""
    pairs = zip(a, b, strict=True)
    return float(np.median([np.log(np.median(x)) - np.log(np.median(y)) for x, y in pairs]))


def interval(logs: Sequence[float], confidence: float) -> Estimate:
    """Return exp of the mean of logs with Student's interval."""
    return _spread(logs).interval(confidence)


def detectable_effect(logs: Sequence[float]) -> float:
    """Return the effect, as a share, that is found with a power of 80 % at 99 % confidence."""
    return _spread(logs).detectable()


@dataclass(frozen=True, slots=True)
class _Spread:
    """The mean of a log ratio, its standard error, and the degrees of freedom of that."""

    mean: float
    error: float
    freedom: float

    def interval(self, confidence: float) -> Estimate:
        half = float(student.ppf((1 + confidence) / 2, self.freedom)) * self.error
        ends = (self.mean, self.mean - half, self.mean + half)
        return Estimate(*(float(np.exp(v)) for v in ends))

    def detectable(self) -> float:
        quantiles = student.ppf([(1 + DECIDING) / 2, POWER], self.freedom)
        return float(np.expm1(float(quantiles.sum()) * self.error))


def _spread(logs: Sequence[float]) -> _Spread:
    values = np.asarray(logs, dtype=np.float64)
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    return _Spread(float(values.mean()), error, len(values) - 1)


def _log_times(launches: Sequence[Rounds]) -> list[float]:
    """Return the log of each launch's median round."""
    return [float(np.log(np.median([np.median(x) for x in rounds]))) for rounds in launches]


def _difference(a: Sequence[float], b: Sequence[float], allowance: float = 0.0) -> _Spread:
    """Return the difference of two means, with the degrees of freedom of Welch and Satterthwaite.

    Args:
        a: Logs of times.
        b: The same of others.
        allowance: Deviation of either mean that neither sample shows.
    """
    parts = [float(np.var(x, ddof=1)) / len(x) for x in (a, b)]
    total = sum(parts)
    weight = sum(v**2 / (len(x) - 1) for v, x in zip(parts, (a, b), strict=True))
    freedom = total**2 / weight if weight else float(len(a) + len(b) - 2)
    error = float(np.sqrt(total + 2 * allowance**2))
    return _Spread(float(np.mean(a) - np.mean(b)), error, freedom)


def _of_one_kind(a: Sequence[float], b: Sequence[float]) -> _Spread:
    """Return the difference of two means of samples that vary alike (Student's own test)."""
    freedom = len(a) + len(b) - 2
    squares = sum(float(np.var(x)) * len(x) for x in (a, b))
    error = float(np.sqrt(squares / freedom * (1 / len(a) + 1 / len(b))))
    return _Spread(float(np.mean(a) - np.mean(b)), error, freedom)
