"""Which of two is faster, decided from launches that ran beside each other.

A process keeps what it drew when it started (addresses, placement of its threads), so rounds of
one process say nothing of the next. Both sides are therefore launched anew several times, and
the launch is the unit:

    dᵢ = median over rounds of log(tA/tB) in launch i;   ratio = exp(mean d ± t·sd(d)/√n)

References:
    Kalibera and Jones 2013, "Rigorous benchmarking in reasonable time", ISMM (repetition at the
    level where the variation arises).
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
        launches: How many launches of both.
    """

    ratio: Estimate
    deciding: Estimate
    control: Estimate
    stable: bool
    detectable: float
    launches: int

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


def log_ratio(a: Rounds, b: Rounds) -> float:
    """Return the median over rounds of the log of A's median time ÷ B's."""
    pairs = zip(a, b, strict=True)
    return float(np.median([np.log(np.median(x)) - np.log(np.median(y)) for x, y in pairs]))


def interval(logs: Sequence[float], confidence: float) -> Estimate:
    """Return exp of the mean of logs with Student's interval."""
    values = np.asarray(logs, dtype=np.float64)
    half = float(student.ppf((1 + confidence) / 2, len(values) - 1)) * _error(values)
    mean = float(values.mean())
    return Estimate(*(float(np.exp(v)) for v in (mean, mean - half, mean + half)))


def detectable_effect(logs: Sequence[float]) -> float:
    """Return the effect, as a share, that is found with a power of 80 % at 99 % confidence."""
    values = np.asarray(logs, dtype=np.float64)
    quantiles = student.ppf([(1 + DECIDING) / 2, POWER], len(values) - 1)
    return float(np.expm1(float(quantiles.sum()) * _error(values)))


def _error(values: np.ndarray) -> float:
    """Return the standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))
