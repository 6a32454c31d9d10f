"""Scales and integers, against ONNX Runtime's QuantizeLinear and NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from calib.schemes import LARGEST, Range, Scheme, params_of_range, quantize_weight
from tests.export.graphs import normal, proto_from_text, run_plainly
from trueint8.errors import CalibrationError, ConfigError

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


@settings(deadline=None)
@given(st.floats(2.0**-118, 2.0**127, width=32))
def test_an_activation_scale_is_amax_over_127(amax: float) -> None:
    scale = params_of_range("x", Range(-amax, amax)).scale
    assert scale.shape == () and scale.dtype == np.float32
    np.testing.assert_allclose(float(scale), amax / 127, rtol=1e-6)


@pytest.mark.parametrize("amax", [0.0, 1e-45, 1e-40])
def test_an_activation_of_zeros_gets_scale_one(amax: float) -> None:
    assert params_of_range("x", Range(-amax, amax)).scale == 1.0


@pytest.mark.parametrize(
    "covered", [Range(-np.nan, np.nan), Range(0.0, np.inf), Range(-np.inf, 0.0), Range(1.0, 2.0)]
)
def test_a_range_that_is_none_is_refused_by_name(covered: Range) -> None:
    with pytest.raises(CalibrationError) as caught:
        params_of_range("encoder.output", covered)
    assert (
        caught.value.problem == f"the range of 'encoder.output' is {covered.low} to "
        f"{covered.high}, which is no usable threshold"
    )
    assert caught.value.fix == "calibrate on more or other data"


@settings(deadline=None)
@given(st.floats(-1e6, 0), st.floats(0, 1e6), st.integers(2, 16))
def test_an_asymmetric_grid_holds_zero_and_covers_the_range(
    low: float, high: float, bits: int
) -> None:
    scheme = Scheme(bits, symmetric=False)
    params = params_of_range("x", Range(low, high), scheme)
    assert 0 <= params.zero_point <= scheme.levels == 2**bits - 1
    scale = float(params.scale)
    step = scale * (0.5 + 1e-5)
    assert -params.zero_point * scale <= low + step
    assert (scheme.levels - params.zero_point) * scale >= high - step


@pytest.mark.parametrize("bits", [-8, 0, 1, 17])
def test_bits_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(ConfigError) as caught:
        Scheme(bits)
    assert caught.value.problem == f"bits={bits} is out of range; expected 2 to 16"
