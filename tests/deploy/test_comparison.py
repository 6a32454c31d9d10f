"""The verdict: how often it is wrong, what it finds, and that both sides are treated alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.profiling.comparison import (
    Comparison,
    Rounds,
    compare_launches,
    detectable_effect,
    interval,
    log_ratio,
)
from deploy.profiling.warming import settled

LAUNCHES, ROUNDS, RUNS = 10, 10, 5
Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def _quiet(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.exp(draw.normal(0, 0.01, shape))


def _bursts(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """One run in seven takes up to five times as long: other jobs on the machine."""
    hit = draw.random(shape) < 1 / 7
    slowed: np.ndarray = np.where(hit, draw.uniform(1, 5, shape), 1.0) * _quiet(draw, shape)
    return slowed


def _drawn(
    seed: int, noise: Noise, *, slower: float = 0.0, spread: float = 0.01, control: float = 0.0
) -> Comparison:
    """Return a comparison of drawn times.

    Args:
        seed: Of the draw.
        noise: Of single runs.
        slower: How much more time B takes.
        spread: Deviation between processes of one side.
        control: How much more time the control takes.
    """
    draw = np.random.default_rng(seed)
    load = np.exp(draw.normal(0, 0.2, (1, LAUNCHES, ROUNDS, 1)))
    process = np.exp(draw.normal(0, spread, (3, LAUNCHES, 1, 1)))
    process *= np.array([1.0, 1 + slower, 1 + control]).reshape(3, 1, 1, 1)
    times = 5e6 * load * process * noise(draw, (3, LAUNCHES, ROUNDS, RUNS))
    a, b, idle = times.astype(np.int64).tolist()
    return compare_launches(a, b, idle)


@pytest.mark.parametrize("noise", [_quiet, _bursts])
def test_one_engine_against_itself_is_hardly_ever_called_different(noise: Noise) -> None:
    verdicts = [_drawn(seed, noise).verdict for seed in range(200)]
    assert sum(v != "no evidence" for v in verdicts) <= 6


@pytest.mark.parametrize("noise", [_quiet, _bursts])
def test_five_percent_are_found(noise: Noise) -> None:
    found = [_drawn(seed, noise, slower=0.05).verdict for seed in range(100)]
    assert found.count("slower") >= 90
    assert "faster" not in found
    assert [_drawn(s, noise, slower=-0.05).verdict for s in range(20)].count("faster") >= 17


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    truth = 1 / 1.03
    drawn = [_drawn(seed, _quiet, slower=0.03).ratio for seed in range(200)]
    covered = sum(e.low <= truth <= e.high for e in drawn)
    assert 180 <= covered <= 199


def test_a_run_whose_control_differs_decides_nothing() -> None:
    found = _drawn(1, _quiet, slower=0.2, control=0.2)
    assert not found.stable
    assert found.deciding.high < 1
    assert found.verdict == "no evidence"


def test_what_is_called_detectable_is_detected_four_times_out_of_five() -> None:
    effect = float(np.median([_drawn(s, _quiet).detectable for s in range(100)]))
    found = [_drawn(s, _quiet, slower=effect).verdict for s in range(200)]
    assert 140 <= found.count("slower") <= 185


TIMES = st.lists(
    st.lists(st.integers(1_000, 10**9), min_size=3, max_size=3), min_size=3, max_size=3
)


@given(TIMES, TIMES)
def test_sides_are_treated_alike(a: Rounds, b: Rounds) -> None:
    assert log_ratio(a, b) == pytest.approx(-log_ratio(b, a))
    assert log_ratio(a, a) == 0


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=12))
def test_intervals_nest_and_turn_over(logs: list[float]) -> None:
    shown, deciding = interval(logs, 0.95), interval(logs, 0.99)
    assert deciding.low <= shown.low <= shown.value * (1 + 1e-9)
    assert shown.value <= shown.high * (1 + 1e-9) and shown.high <= deciding.high
    other = interval([-v for v in logs], 0.99)
    assert other.low == pytest.approx(1 / deciding.high)
    assert detectable_effect(logs) >= 0


def test_unequal_or_few_launches_are_refused() -> None:
    rounds = [[1, 2, 3]]
    with pytest.raises(ValueError, match="cannot be paired"):
        compare_launches([rounds] * 4, [rounds] * 5, [rounds] * 4)
    with pytest.raises(ValueError, match="4 are needed"):
        compare_launches([rounds] * 3, [rounds] * 3, [rounds] * 3)


def test_a_warm_up_is_over_when_runs_stop_getting_faster() -> None:
    run = 10_000_000
    falling = [int(run * (1 + 3 * 0.9**i)) for i in range(25)]
    assert not settled(falling)
    assert settled(falling + [run] * 60)
    assert not settled([run] * 30)
    assert settled([run] * 40)
    assert settled([run] * 40 + [2 * run] * 40), "slower is not warmer"
    assert not settled([2 * run] * 30 + [run] * 10)
