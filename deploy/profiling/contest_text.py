"""A comparison in words, and as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from deploy.profiling.comparison import Comparison, Rounds
from deploy.profiling.contest import Contest
from deploy.profiling.statistics import Estimate
from deploy.sides import Side
from trueint8.kinds import Kind

_MISSES = 0.05
"""A run that cannot find a smaller effect is called too noisy."""


def contest_lines(sides: Sequence[Side], held: Contest) -> Iterator[str]:
    """Yield the times, the ratio, the control, and the verdict with what limits it."""
    for letter, side in zip("AB", sides, strict=True):
        yield side_line(letter, side.label, held.samples[letter])
    yield from comparison_lines(held.comparison(), Kind.MEASURED)
    yield from advice(held)


def side_line(letter: str, label: str, launches: Sequence[Rounds]) -> str:
    """Return one side's name and median."""
    return f"{letter}: {label:<50} p50 {_median_ms(launches):9.3f} ms"


def comparison_lines(found: Comparison, kind: Kind) -> Iterator[str]:
    """Yield the ratio, the control, what could have been found, and the verdict."""
    paired = "" if found.paired else ", not paired"
    yield f"time of A ÷ time of B   {estimate_text(found.ratio)}, {found.launches} launches{paired}"
    yield f"A ÷ A, the control      {estimate_text(found.control)}"
    yield f"least effect findable   {found.detectable:.1%}, four times out of five"
    interval = f"{found.deciding.low:.3f} - {found.deciding.high:.3f}"
    yield f"verdict: {_sentence(found.verdict)}  [{kind}, 99 % interval {interval}]"


def advice(held: Contest) -> Iterator[str]:
    """Yield what is wrong with a run and what to do about it."""
    found = held.comparison()
    yield from comparison_advice(found)
    if held.unsettled:
        yield (
            f"{held.unsettled} processes were still getting faster after ten seconds of warm-up; "
            "times may fall further"
        )


def comparison_advice(found: Comparison) -> Iterator[str]:
    """Yield what a comparison itself tells of the run."""
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


def estimate_text(ratio: Estimate) -> str:
    """Return a ratio with its interval."""
    return f"{ratio.value:.3f}  [{ratio.low:.3f}, {ratio.high:.3f}]"


def _median_ms(launches: Sequence[Rounds]) -> float:
    pooled = np.concatenate([np.concatenate(rounds) for rounds in launches])
    return float(np.median(pooled)) / 1e6
