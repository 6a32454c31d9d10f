"""A comparison in words, and as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from deploy.profiling.comparison import Rounds
from deploy.profiling.contest import Contest
from deploy.profiling.statistics import Estimate
from deploy.sides import Side
from trueint8.kinds import Kind

_MISSES = 0.05
"""A run that cannot find a smaller effect is called too noisy."""


def contest_lines(sides: Sequence[Side], held: Contest) -> Iterator[str]:
    """Yield the times, the ratio, the control, and the verdict with what limits it."""
    found = held.comparison()
    for letter, side in zip("AB", sides, strict=True):
        yield f"{letter}: {side.label:<50} p50 {_median_ms(held.samples[letter]):9.3f} ms"
    yield f"time of A ÷ time of B   {_shown(found.ratio)}, {found.launches} launches"
    yield f"A ÷ A, the control      {_shown(found.control)}"
    yield f"least effect findable   {found.detectable:.1%}, four times out of five"
    yield f"verdict: {_sentence(found.verdict)}  [{Kind.MEASURED}, 99 % interval "
    f"{found.deciding.low:.3f} - {found.deciding.high:.3f}]"
    yield from advice(held)


def advice(held: Contest) -> Iterator[str]:
    """Yield what is wrong with a run and what to do about it."""
    found = held.comparison()
    if not found.stable:
        yield (
            "unstable: A differs from itself by more than chance, so nothing is decided; close "
            "other programs, fix the clock rate, or pass more --launches"
        )
    if found.detectable > _MISSES:
        yield (
            f"noisy: effects below {found.detectable:.0%} are likely to be missed; pass more "
            "--launches, or run on a quieter machine"
        )
    if held.unsettled:
        yield (
            f"{held.unsettled} processes were still getting faster after ten seconds of warm-up; "
            "times may fall further"
        )


def plain_contest(sides: Sequence[Side], held: Contest) -> dict[str, Any]:
    """Return all figures with the raw samples, in ns per launch, round and run."""
    found = held.comparison()
    return {
        "kind": Kind.MEASURED,
        "a": sides[0].label,
        "b": sides[1].label,
        "verdict": found.verdict,
        **asdict(found),
        "advice": list(advice(held)),
        "unsettled": held.unsettled,
        "samples_ns": held.samples,
    }


def _sentence(verdict: str) -> str:
    return verdict if verdict == "no evidence" else f"B is {verdict}"


def _shown(ratio: Estimate) -> str:
    return f"{ratio.value:.3f}  [{ratio.low:.3f}, {ratio.high:.3f}]"


def _median_ms(launches: Sequence[Rounds]) -> float:
    pooled = np.concatenate([np.concatenate(rounds) for rounds in launches])
    return float(np.median(pooled)) / 1e6
