"""The fewest matmuls in float that hold a drop: growing prefixes of a ranking, then a bisection.

Lengths 1, 2, 4, … of the ranking are tried until one holds, then the shortest that holds is
found between it and the one before, and last each member but the least sensitive is tried
without. Every decision is a measurement; that a longer prefix is better is not assumed beyond
where to look next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deploy.profiling.statistics import Estimate

Kept = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One placement, as an engine ran it.

    Attributes:
        kept: Matmuls in float.
        value: The task's metric.
        drop: What it loses against the float graph in FP32 on the same engine.
        latency_ms: Median of one batch.
        float_ratio: Latency of the engine's fastest float precision ÷ this one's, paired.
    """

    kept: Kept
    value: float
    drop: Estimate
    latency_ms: Estimate
    float_ratio: Estimate


class _Over(Exception):
    """There is no time left."""


def find_fewest(
    ranking: Sequence[str], measure: Callable[[Kept], Candidate | None], target: float
) -> None:
    """Measure candidates until the fewest matmuls in float that hold the target are known.

    Args:
        ranking: Matmuls, the most sensitive first; at least one of them stays quantized, and
            with none in float the target is known to be missed.
        measure: Measures a candidate, or returns None where there is no time left, which
            ends the search. Nothing is measured twice.
        target: Largest drop.
    """
    known: dict[frozenset[str], bool] = {frozenset(): False}

    def holds(kept: Sequence[str]) -> bool:
        key = frozenset(kept)
        if key not in known:
            found = measure(tuple(kept))
            if found is None:
                raise _Over
            known[key] = found.drop.value <= target
        return known[key]

    with contextlib.suppress(_Over):
        _without_members(list(ranking[: _shortest(ranking, holds)]), holds)


def choose(candidates: Sequence[Candidate], target: float) -> Candidate:
    """Return the one that holds the target with the fewest in float, else that of least drop."""
    holding = [c for c in candidates if c.drop.value <= target]
    if holding:
        return min(holding, key=lambda c: (len(c.kept), c.drop.value))
    return min(candidates, key=lambda c: c.drop.value)


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that no other beats in drop and latency, fewest in float first.

    Latencies are compared as ratios to the float graph beside which each was timed.
    """

    def beaten(c: Candidate, by: Candidate) -> bool:
        gains = (c.drop.value - by.drop.value, by.float_ratio.value - c.float_ratio.value)
        return min(gains) >= 0 and max(gains) > 0

    front = [c for c in candidates if not any(beaten(c, other) for other in candidates)]
    return sorted(front, key=lambda c: (len(c.kept), c.drop.value))


def _shortest(ranking: Sequence[str], holds: Callable[[Sequence[str]], bool]) -> int:
    """Return the length of the shortest prefix found to hold; 0 if none does."""
    longest = len(ranking) - 1
    fails, length = 0, min(1, longest)
    while length and not holds(ranking[:length]):
        if length == longest:
            return 0
        fails, length = length, min(2 * length, longest)
    while length - fails > 1:
        middle = (fails + length) // 2
        if holds(ranking[:middle]):
            length = middle
        else:
            fails = middle
    return length


def _without_members(kept: list[str], holds: Callable[[Sequence[str]], bool]) -> None:
    """Drop each member but the last, without which the prefix is known to fail."""
    for name in reversed(kept[:-1]):
        fewer = [n for n in kept if n != name]
        if holds(fewer):
            kept = fewer
