"""Figures per second and per inference that follow from rounds: throughput, and energy."""

from __future__ import annotations

import numpy as np

from deploy.profiling.results import Latency, Throughput
from deploy.profiling.statistics import Estimate, drawn_rounds, estimate_from


def samples_per_s(found: Throughput) -> Estimate:
    """Return the median over rounds of samples per second, with its 95 % interval."""
    rates = _rates(found)
    drawn = drawn_rounds(len(rates), found.launches)
    return estimate_from(float(np.median(rates)), np.median(rates[drawn], axis=1))


def throughput_ratio(baseline: Throughput, candidate: Throughput) -> Estimate:
    """Return candidate ÷ baseline in samples per second, with its paired 95 % interval.

    Args:
        baseline: Under one demand.
        candidate: Under the same; its round i ran beside the baseline's round i.

    Returns:
        Above 1 where the candidate gives more.

    Raises:
        ValueError: If the two do not have the same rounds and launches.
    """
    sides = [_rates(side) for side in (baseline, candidate)]
    if len(sides[0]) != len(sides[1]) or baseline.launches != candidate.launches:
        raise ValueError("throughput of unlike rounds cannot be paired")
    drawn = drawn_rounds(len(sides[0]), baseline.launches)
    below, above = (np.median(rates[drawn], axis=1) for rates in sides)
    value = float(np.median(sides[1]) / np.median(sides[0]))
    return estimate_from(value, above / below)


def joules_per_run(latency: Latency) -> dict[str, Estimate]:
    """Return the median over rounds of joules ÷ inferences, with its 95 % interval, by counter.

    Counters are of the whole machine: what idles or belongs to others is in them.

    Args:
        latency: With what was read in its rounds.

    Returns:
        Only counters that every round was read of; empty where none can be read.
    """
    if len(latency.blocks) != len(latency.rounds_ns):
        return {}
    names = dict.fromkeys(name for block in latency.blocks for name in block.energy_j)
    found = {}
    drawn = drawn_rounds(len(latency.rounds_ns), latency.launches)
    for name in names:
        used = [block.energy_j.get(name) for block in latency.blocks]
        if None in used:
            continue
        each = np.array(used, np.float64) / np.array([len(times) for times in latency.rounds_ns])
        found[name] = estimate_from(float(np.median(each)), np.median(each[drawn], axis=1))
    return found


def _rates(found: Throughput) -> np.ndarray:
    """Return the samples per second of each round."""
    return np.array(
        [sum(found.batch * n / ns * 1e9 for n, ns in streams) for streams in found.rounds]
    )
