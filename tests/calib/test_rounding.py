"""Weights rounded against second moments: the error they were chosen for falls."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from calib import covariance
from calib.collector import observe
from calib.covariance import covariances
from calib.placement import Placement, place_qdq
from calib.qdq import insert_qdq
from calib.rounding import SecondMoments, readers_of_weights, round_weight, rounded_weights
from calib.schemes import Range, params_of_range
from calib.stats import TensorStats
from calib.weights import WeightScheme, quantize_weight
from export.matmuls import find_matmuls
from tests.export.graphs import graph_from_text, normal
from trueint8.progress import Silence

SHARED = """
g (float[b, t, 8] x, int64[b, t] attention_mask) => (float[b, t, 8] y) {
    [first] h = MatMul(x, w)
    r = Relu(h)
    [second] f = MatMul(r, w)
    [third] y = MatMul(f, u)
}
"""


def cost(weight: np.ndarray, rounded: np.ndarray, moments: np.ndarray) -> float:
    off = (rounded - weight).astype(np.float64)
    return float((off * (moments @ off)).sum())


def correlated(seed: int, width: int, tokens: int = 500) -> np.ndarray:
    mix = np.random.default_rng(seed).normal(size=(width // 3 + 1, width))
    x = normal(seed, tokens, len(mix)) @ mix + 0.1 * normal(seed + 1, tokens, width)
    return x.T @ x / tokens


@settings(deadline=None)
@example(seed=115, width=3, bits_off=1)  # two directions for three channels
@given(seed=st.integers(0, 1000), width=st.integers(3, 40), bits_off=st.integers(0, 5))
def test_the_error_of_the_product_is_never_worse_than_that_of_rounding_to_nearest(
    seed: int, width: int, bits_off: int
) -> None:
    weight, moments, levels = normal(seed, width, 5), correlated(seed, width), 127 >> bits_off
    params = params_of_range("w", Range(-float(abs(weight).max()), float(abs(weight).max())))
    scale = params.scale * 127 / levels
    params = type(params)(scale.astype(np.float32))
    nearest = np.clip(np.rint(weight / scale), -levels, levels)
    chosen = round_weight(weight, params, SecondMoments.of(moments), levels)
    assert abs(chosen).max() <= levels
    assert abs(chosen - weight / scale).max() < 2 * levels
    best = cost(weight, nearest * scale, moments)
    assert cost(weight, chosen * scale, moments) <= best * (1 + 1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_correlated_channels_make_up_for_each_other(seed: int) -> None:
    weight, moments = normal(seed, 48, 16), correlated(seed, 48)
    integers, params = quantize_weight(weight, 1)
    chosen = round_weight(weight, params, SecondMoments.of(moments), 127)
    assert cost(weight, chosen * params.scale, moments) < 0.5 * cost(
        weight, integers * params.scale, moments
    )


def test_channels_that_do_not_correlate_are_rounded_to_nearest() -> None:
    weight = normal(0, 12, 4)
    integers, params = quantize_weight(weight, 1)
    chosen = round_weight(weight, params, SecondMoments.of(np.diag(np.arange(12.0))), 127)
    assert np.array_equal(chosen, integers) and chosen.dtype == np.int8


def test_activations_that_are_always_zero_change_nothing() -> None:
    weight = normal(1, 6, 3)
    integers, params = quantize_weight(weight, 1)
    chosen = round_weight(weight, params, SecondMoments.of(np.zeros((6, 6))), 127)
    assert np.array_equal(chosen, integers)


def placed(
    batches: list[dict[str, np.ndarray]],
) -> tuple[ir.Model, Placement, dict[str, TensorStats]]:
    model = graph_from_text(SHARED, {"w": normal(3, 8, 8), "u": normal(4, 8, 8)})
    placement = place_qdq(find_matmuls(model, modules_named=False), quantize_head=True)
    seen = observe(model, placement.tensors, batches, progress=Silence())
    return model, placement, seen.stats


@pytest.mark.parametrize("bytes_at_once", [1 << 30, 1])
@pytest.mark.parametrize("centred", [False, True])
def test_moments_leave_out_padding_and_add_up_over_shared_weights(
    monkeypatch: pytest.MonkeyPatch, bytes_at_once: int, centred: bool
) -> None:
    monkeypatch.setattr(covariance, "BYTES_AT_ONCE", bytes_at_once)
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0]])
    batches = [{"x": normal(s, 2, 4, 8) + 1, "attention_mask": mask} for s in (5, 6)]
    model, placement, stats = placed(batches)
    readers = readers_of_weights(model.graph, placement.quantized, stats)
    assert {name: tensors for name, (_, tensors) in readers.items()} == {
        "w": ("x", "r"),
        "u": ("f",),
    }
    found = dict(
        covariances(
            model,
            [("x", "r"), ("f",)],
            stats,
            batches,
            centred=centred,
            progress=Silence(),
        )
    )
    weight = normal(3, 8, 8).astype(np.float64)
    x = np.concatenate([b["x"][mask.astype(bool)] for b in batches]).astype(np.float64)
    r = np.maximum(x @ weight, 0)
    if centred:
        x, r = x - x.mean(axis=0), r - r.mean(axis=0)
    expected = (x.T @ x + r.T @ r) / (2 * len(x))
    assert np.allclose(found["x", "r"], expected, rtol=1e-4, atol=1e-4)
    rounded = rounded_weights(readers, iter(found.items()), WeightScheme(rounding="gptq"))
    assert set(rounded) == {"w", "u"}


def test_rounded_weights_are_what_the_graph_gets() -> None:
    batches = [{"x": normal(5, 2, 4, 8), "attention_mask": np.ones((2, 4), np.int64)}]
    model, placement, stats = placed(batches)
    params = {
        n: params_of_range(n, Range(-stats[n].absmax, stats[n].absmax)) for n in placement.tensors
    }
    given = np.full((8, 8), 7, np.int8)
    _, weight_params = quantize_weight(normal(3, 8, 8), 1)
    insert_qdq(model, placement, params, None, {"w": (given, weight_params)})
    stored = model.graph.initializers["first.weight_int8"].const_value
    assert stored is not None and np.array_equal(stored.numpy(), given)
