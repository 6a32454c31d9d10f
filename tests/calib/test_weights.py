"""Weights to integers, against ONNX Runtime's QuantizeLinear and NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from calib.schemes import Scheme
from calib.weights import ESTIMATORS, WeightScheme, quantize_weight
from tests.export.graphs import normal, proto_from_text, run_plainly
from trueint8.errors import CalibrationError, ConfigError, UnknownName

LARGEST = 127
WEIGHTS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
)


def _quantize_linear(weight: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    """Return what ONNX Runtime makes of a weight with the same scales."""
    text = f"""g (float[{",".join(map(str, weight.shape))}] w) => (int8[r, c] q) {{
        q = QuantizeLinear<axis={axis}>(w, s, z)
    }}"""
    zeros = np.zeros(scale.shape, np.int8)
    (integers,) = run_plainly(proto_from_text(text, {"s": scale, "z": zeros}), {"w": weight})
    return np.asarray(integers)


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.sampled_from([0, 1]))
def test_integers_are_those_of_quantize_linear(weight: np.ndarray, axis: int) -> None:
    integers, params = quantize_weight(weight, axis)
    np.testing.assert_array_equal(integers, _quantize_linear(weight, params.scale, axis))


def test_halves_are_rounded_to_even() -> None:
    weight = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]], np.float32)
    integers, params = quantize_weight(weight, 0)
    assert params.scale.tolist() == [1.0]
    assert integers.tolist() == [[127, 0, 2, 2, 0, -2, -2, 126]]
    np.testing.assert_array_equal(integers, _quantize_linear(weight, params.scale, 0))


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_every_channel_keeps_its_own_scale_and_half_a_step(axis: int) -> None:
    weight = normal(0, 48, 32) * np.logspace(-6, 6, 32, dtype=np.float32)
    integers, params = quantize_weight(weight, axis)
    assert integers.dtype == np.int8 and integers.shape == weight.shape
    assert params.scale.dtype == np.float32 and params.scale.shape == (weight.shape[axis],)
    amax = np.abs(weight.astype(np.float64)).max(axis=1 - axis % 2)
    np.testing.assert_allclose(params.scale, amax / LARGEST, rtol=1e-6)
    scale = np.expand_dims(params.scale.astype(np.float64), 1 - axis % 2)
    error = np.abs(integers * scale - weight)
    assert (error <= scale * (0.5 + 1e-5)).all()
    assert np.abs(integers.astype(int)).max() == LARGEST
    assert (np.abs(integers.astype(int)).max(axis=1 - axis % 2) == LARGEST).all()


def test_a_stack_of_weights_has_scales_along_its_axis() -> None:
    weight = normal(1, 3, 4, 5)
    for axis in range(3):
        integers, params = quantize_weight(weight, axis)
        others = tuple(i for i in range(3) if i != axis)
        np.testing.assert_allclose(params.scale, np.abs(weight).max(axis=others) / 127, rtol=1e-6)
        scale = np.expand_dims(params.scale, others)
        assert (np.abs(integers * scale - weight) <= scale * (0.5 + 1e-5)).all()


@pytest.mark.parametrize("tiny", [0.0, -0.0, 1e-44, 1e-38])
def test_a_channel_of_zeros_gets_scale_one_and_zeros(tiny: float) -> None:
    weight = normal(0, 4, 3)
    weight[:, 1] = tiny
    integers, params = quantize_weight(weight, 1)
    assert params.scale[1] == 1.0
    assert not integers[:, 1].any()
    assert np.abs(integers[:, [0, 2]]).max() == LARGEST


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused(value: float) -> None:
    weight = normal(0, 4, 3)
    weight[2, 1] = value
    with pytest.raises(CalibrationError) as caught:
        quantize_weight(weight, 1, name="encoder.dense.weight")
    assert "'encoder.dense.weight' holds 1 NaN or infinite" in caught.value.problem
    assert "checkpoint" in caught.value.fix


def _error(weight: np.ndarray, scale: np.ndarray, levels: int = LARGEST) -> np.ndarray:
    """Return each row's squared error, in float64."""
    wide = weight.astype(np.float64)
    steps = np.clip(np.rint(wide / scale[:, None]), -levels, levels)
    return np.asarray(((wide - steps * scale[:, None]) ** 2).sum(axis=1))


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("kind", ["normal", "heavy", "outlier", "uniform"])
def test_mse_is_within_one_percent_of_the_least_error(kind: str, bits: int) -> None:
    draw = np.random.default_rng(4)
    weight = draw.standard_normal((6, 800))
    if kind == "heavy":
        weight = draw.standard_t(3, (6, 800))
    elif kind == "uniform":
        weight = draw.uniform(-1, 1, (6, 800))
    elif kind == "outlier":
        weight[:, 0] = 12.0
    weight = (weight * np.logspace(-3, 3, 6)[:, None]).astype(np.float32)
    levels = Scheme(bits).levels
    _, params = quantize_weight(weight, 0, WeightScheme("mse", scheme=Scheme(bits)))
    largest = np.abs(weight).max(axis=1).astype(np.float64)
    tried = np.linspace(0.05, 1, 400)
    least = np.min([_error(weight, largest * f / levels, levels) for f in tried], axis=0)
    assert (_error(weight, params.scale.astype(np.float64), levels) <= 1.01 * least).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_scale_for_all_is_that_of_all_values(estimator: str) -> None:
    weight = normal(3, 5, 40)
    for axis in (0, 1):
        integers, params = quantize_weight(weight, axis, WeightScheme(estimator, per_channel=False))
        assert params.scale.shape == () and integers.shape == weight.shape
        _, flat = quantize_weight(weight.reshape(1, -1), 0, WeightScheme(estimator))
        assert params.scale == flat.scale[0]


def test_a_percentile_covers_that_share() -> None:
    weight = normal(0, 3, 10_000)
    integers, params = quantize_weight(weight, 0, WeightScheme("percentile", percentile=99.0))
    expected = np.percentile(np.abs(weight.astype(np.float64)), 99.0, axis=1) / LARGEST
    np.testing.assert_allclose(params.scale, expected, rtol=1e-5)
    assert (np.mean(np.abs(integers) == LARGEST, axis=1) >= 0.01).all()


def test_more_bits_are_closer() -> None:
    weight = normal(0, 8, 500)
    errors = []
    for bits in (4, 6, 8, 12):
        integers, params = quantize_weight(weight, 0, WeightScheme(scheme=Scheme(bits)))
        assert integers.dtype == (np.int16 if bits > 8 else np.int8)
        errors.append(np.abs(integers * params.scale[:, None] - weight).max())
    assert errors == sorted(errors, reverse=True)


def test_what_is_no_scheme_is_refused() -> None:
    with pytest.raises(UnknownName) as unknown:
        WeightScheme("msa")
    assert "did you mean 'mse'" in unknown.value.fix
    with pytest.raises(ConfigError):
        WeightScheme("percentile", percentile=0.0)
    with pytest.raises(ConfigError):
        WeightScheme(scheme=Scheme(8, symmetric=False))
