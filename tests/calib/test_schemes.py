"""Ranges to scales and zero points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.schemes import Range, Scheme, params_of_range
from trueint8.errors import CalibrationError, ConfigError


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
