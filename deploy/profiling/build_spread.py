"""Does one build of an engine differ from the next?

Builders that time kernels to choose among them (TensorRT) may choose otherwise each time. k builds
in L launches, all timed beside each other, with xᵢⱼ = log of build i's median time in launch j:

    xᵢⱼ = m + bᵢ + lⱼ + eᵢⱼ;   s²(between) = max(0, MS(b) − MS(e)) / L;   s²(within) = MS(e)

References:
    Searle, Casella and McCulloch 1992, "Variance Components", chapter 4 (two-way, no interaction).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import f as fisher

from deploy.profiling.results import Rebuilds
from trueint8.kinds import Kind

_SURE = 0.01
"""Chance below which builds are said to differ."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How much builds differ, as shares of the time.

    Attributes:
        extremes: Slowest build ÷ fastest.
        between: Deviation of builds from each other, that of launches taken off.
        within: Deviation of launches of one build.
        chance: Probability of such builds if all were alike.
    """

    extremes: float
    between: float
    within: float
    chance: float

    @property
    def verdict(self) -> str:
        """What may be said of the builds."""
        return "builds differ" if self.chance <= _SURE else "no evidence that builds differ"


def spread_of(rebuilds: Rebuilds) -> Spread:
    """Return how much builds differ; see the module's docstring."""
    logs = np.array(
        [
            [np.log(np.median([np.median(times) for times in rounds])) for rounds in launches]
            for launches in rebuilds.launches_ns
        ]
    )
    builds, launches = logs.shape
    means = logs.mean(axis=1)
    rest = logs - means[:, None] - logs.mean(axis=0) + logs.mean()
    freedom = (builds - 1) * (launches - 1)
    error = float((rest**2).sum()) / freedom
    of_builds = launches * float(np.var(means, ddof=1))
    chance = float(fisher.sf(of_builds / error, builds - 1, freedom)) if error else 1.0
    return Spread(
        extremes=float(np.exp(means.max() - means.min())),
        between=float(np.sqrt(max(0.0, of_builds - error) / launches)),
        within=float(np.sqrt(error)),
        chance=chance,
    )


def spread_line(title: str, rebuilds: Rebuilds) -> str:
    """Return what became of the builds, in a sentence."""
    found = spread_of(rebuilds)
    return (
        f"{title}: {len(rebuilds.build_s)} builds, {rebuilds.distinct} distinct by content, "
        f"slowest ÷ fastest {found.extremes:.3f}; deviation between builds {found.between:.1%}, "
        f"between launches of one {found.within:.1%}; {found.verdict}  [{Kind.MEASURED}]"
    )
