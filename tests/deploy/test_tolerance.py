"""The tolerance: what passes, by which rule, and what never does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from deploy.tolerance import (
    EQUAL_DB,
    OutputCheck,
    check_float,
    check_quantized,
    sqnr_db,
    top1_agreement,
)

DRAW = np.random.default_rng(3)
FLOAT = DRAW.standard_normal((4, 100, 32)).astype(np.float32)
SIMULATED = FLOAT + 0.1 * DRAW.standard_normal(FLOAT.shape).astype(np.float32)


def _noisy(db: float) -> np.ndarray:
    noise = np.random.default_rng(4).standard_normal(FLOAT.shape)
    scale = np.sqrt((SIMULATED**2).sum() / (noise**2).sum()) * 10 ** (-db / 20)
    noisy: np.ndarray = (SIMULATED + scale * noise).astype(np.float32)
    return noisy


def _check(actual: np.ndarray, *, repeat_db: float = 100.0, logits: bool = False) -> OutputCheck:
    return check_quantized("y", actual, SIMULATED, FLOAT, repeat_db=repeat_db, logits=logits)


def test_sqnr_is_a_ratio_of_powers_in_decibels() -> None:
    x = np.array([3.0, 4.0])
    assert sqnr_db(x, x + np.array([0.0, 0.5])) == pytest.approx(20.0)
    assert sqnr_db(x, x) == EQUAL_DB
    assert sqnr_db(np.zeros(2), x) == -EQUAL_DB
    assert sqnr_db(x, np.array([3.0, np.nan])) == -EQUAL_DB


def test_six_decibels_above_the_noise_of_quantization_pass() -> None:
    assert _check(SIMULATED).noise_db == pytest.approx(20.0, abs=0.3)
    assert _check(_noisy(26.5)).passed
    assert not _check(_noisy(25.5)).passed
    assert _check(_noisy(25.5)).margin_db == pytest.approx(-0.5, abs=0.3)


def test_no_more_is_asked_than_a_second_simulation_gives() -> None:
    assert _check(_noisy(18.0), repeat_db=20.5).passed
    assert not _check(_noisy(17.0), repeat_db=20.5).passed


def test_no_more_is_asked_than_of_a_float_engine() -> None:
    for error, passes in ((1e-3 / 2, True), (1e-3 * 2, False)):
        actual = FLOAT * (1 + error)
        check = check_quantized("y", actual, FLOAT * (1 + 1e-5), FLOAT, repeat_db=EQUAL_DB)
        assert check.passed == passes and check.required_db == 60.0


def test_agreement_counts_over_enough_positions_only() -> None:
    spread = np.zeros_like(FLOAT)
    spread[..., 0] = 9
    worse = _noisy(10.0) + spread
    check = check_quantized(
        "y", worse, SIMULATED + spread, FLOAT + spread, repeat_db=50, logits=True
    )
    assert check.agreement == 1.0 and check.positions == 400
    assert check.sqnr_db < check.required_db and check.passed
    few = check_quantized(
        "y", worse[:1], (SIMULATED + spread)[:1], (FLOAT + spread)[:1], repeat_db=50, logits=True
    )
    assert few.agreement == 1.0 and few.positions == 100 and not few.passed
    assert _check(worse).agreement is None


def test_top1_is_the_share_of_equal_places() -> None:
    a = np.array([[1.0, 2.0], [5.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
    b = np.array([[0.0, 9.0], [0.0, 1.0], [0.0, 7.0], [3.0, 2.0]])
    assert top1_agreement(a, b) == 0.75


@pytest.mark.parametrize("shape", [(4, 100, 32), (400, 32)])
def test_padding_does_not_count(shape: Sequence[int]) -> None:
    mask = np.ones((4, 100), np.int64)
    mask[:, 50:] = 0
    actual = SIMULATED.copy()
    actual[:, 50:] = 99
    arrays = [a.reshape(shape) for a in (actual, SIMULATED, FLOAT)]
    check = check_quantized("y", *arrays, repeat_db=99, mask=mask, logits=True)
    assert (check.sqnr_db, check.agreement, check.positions) == (EQUAL_DB, 1.0, 200)


def test_float_engines_are_held_to_their_precision() -> None:
    for precision, rounded in (("fp16", FLOAT.astype(np.float16)), ("bf16", FLOAT * 1.01)):
        assert check_float("y", rounded, FLOAT, precision).passed  # type: ignore[arg-type]
        assert not check_float("y", FLOAT * 1.1, FLOAT, precision).passed  # type: ignore[arg-type]
    assert check_float("y", FLOAT * (1 + 1e-5), FLOAT, "fp32").passed
    assert not check_float("y", FLOAT.astype(np.float16) * 1.01, FLOAT, "fp32").passed
