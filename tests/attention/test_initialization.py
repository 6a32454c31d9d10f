"""Initial weights from the statistics of the text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attention.initialization import (
    co_occurrence_vectors,
    head_shifts,
    head_sinusoids,
    log_frequencies,
    shift_rotation,
)


def test_log_frequencies_are_a_distribution_with_every_count_raised_by_one() -> None:
    logs = log_frequencies(np.array([0, 0, 2]), 4)
    np.testing.assert_allclose(np.exp(logs), np.array([3, 1, 2, 1]) / 7, rtol=1e-6)


def test_tokens_that_stand_in_the_same_places_get_similar_vectors() -> None:
    # 10 and 11 stand between 1 and 2, 20 and 21 between 3 and 4.
    rng = np.random.default_rng(0)
    pieces = [(1, rng.choice([10, 11]), 2, 3, rng.choice([20, 21]), 4) for _ in range(2000)]
    torch.manual_seed(0)
    vectors = co_occurrence_vectors(np.array(pieces).reshape(-1), 30, 8)

    def cosine(a: int, b: int) -> float:
        lengths = np.linalg.norm(vectors[a]) * np.linalg.norm(vectors[b])
        return float(vectors[a] @ vectors[b] / lengths)

    assert cosine(10, 11) > 0.9
    assert cosine(20, 21) > 0.9
    assert cosine(10, 20) < 0.5


def test_tokens_that_do_not_occur_get_zeros_and_the_rest_unit_deviation() -> None:
    torch.manual_seed(0)
    stream = np.random.default_rng(0).integers(0, 20, 500)
    vectors = co_occurrence_vectors(stream, 25, 8)
    np.testing.assert_allclose(vectors[20:], 0.0, atol=1e-5)
    assert float(vectors.std(ddof=1)) == pytest.approx(1.0, rel=1e-3)


def test_heads_look_left_and_right_ever_further() -> None:
    assert head_shifts(5) == [-1, 1, -2, 2, -3]


@pytest.mark.parametrize("shift", [-2, -1, 1, 3])
def test_the_rotation_shifts_sinusoids_by_a_constant(shift: int) -> None:
    table, frequencies = head_sinusoids(16, 1, 8)
    turned = table @ shift_rotation(frequencies, shift).numpy().T
    inside = [t for t in range(16) if 0 <= t + shift < 16]
    expected = table[[t + shift for t in inside]]
    np.testing.assert_allclose(turned[inside], expected, atol=1e-6)


def test_a_turned_query_scores_highest_at_its_shift() -> None:
    table, frequencies = head_sinusoids(32, 1, 64)
    scores = table @ shift_rotation(frequencies, -1).numpy().T @ table.T
    assert scores[1:].argmax(axis=1).tolist() == list(range(31))
