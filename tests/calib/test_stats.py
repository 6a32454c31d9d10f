"""Statistics merge exactly, and estimators keep their stated bounds, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from calib.estimators import minmax
from calib.estimators.percentile import estimate
from calib.stats import BINS, RELATIVE_BIN_WIDTH, TensorStats, bin_edges

STEP_OF_DENORMALS = 2.0**-133
"""Width of a bin below the smallest normal float32."""

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
VALUES = arrays.arrays(np.float32, st.integers(1, 60), elements=FLOATS)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _same(a: TensorStats, b: TensorStats) -> bool:
    return (
        np.array_equal(a.histogram, b.histogram)
        and (a.minimum, a.maximum, a.count) == (b.minimum, b.maximum, b.count)
        and a.histogram.dtype == b.histogram.dtype
    )


@QUICK
@given(VALUES, st.data())
def test_merging_any_split_equals_the_statistics_of_all(
    values: np.ndarray, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, values.size), max_size=4)))
    whole = TensorStats.of(values)
    parts = [TensorStats.of(part) for part in np.split(values, cuts)]
    forwards = parts[0]
    for part in parts[1:]:
        forwards = forwards.merge(part)
    backwards = parts[-1]
    for part in parts[-2::-1]:
        backwards = backwards.merge(part)
    assert _same(forwards, whole)
    assert _same(backwards, whole)


@QUICK
@given(VALUES, VALUES, VALUES)
def test_merging_is_associative_and_commutative(
    a: np.ndarray, b: np.ndarray, c: np.ndarray
) -> None:
    x, y, z = (TensorStats.of(v) for v in (a, b, c))
    assert _same(x.merge(y).merge(z), x.merge(y.merge(z)))
    assert _same(x.merge(y), y.merge(x))


@QUICK
@given(VALUES)
def test_counts_and_extremes_are_exact(values: np.ndarray) -> None:
    stats = TensorStats.of(values)
    wide = values.astype(np.float64)
    assert stats.count == values.size == int(stats.absolute_histogram().sum())
    assert (stats.minimum, stats.maximum) == (wide.min(), wide.max())
    assert stats.absmax == np.abs(wide).max() == minmax.estimate(stats)
    assert stats.nonfinite == 0


@QUICK
@given(VALUES)
def test_every_value_lies_in_the_bin_that_counts_it(values: np.ndarray) -> None:
    edges = bin_edges()
    expected = np.zeros(BINS // 2, np.uint64)
    for value in np.abs(values.astype(np.float64)):
        expected[np.searchsorted(edges, value, side="right") - 1] += np.uint64(1)
    np.testing.assert_array_equal(TensorStats.of(values).absolute_histogram(), expected)


def test_bins_are_as_narrow_as_stated() -> None:
    edges = bin_edges()
    finite = edges[np.isfinite(edges)]
    assert edges.shape == (BINS // 2 + 1,)
    assert (np.diff(finite) > 0).all()
    normal = finite[finite >= np.finfo(np.float32).tiny]
    assert (np.diff(normal) / normal[:-1]).max() == RELATIVE_BIN_WIDTH
    small = finite[finite <= np.finfo(np.float32).tiny]
    assert set(np.diff(small)) == {STEP_OF_DENORMALS}


def _bounds(values: np.ndarray, q: float) -> tuple[float, float]:
    """Return the smallest and largest value an estimate of the percentile may have.

    The exact percentile is the smallest |x| that at least q percent of the values
    do not exceed (``inverted_cdf``). The estimate lies in the same bin. q is moved
    by one part in 1e12 either way: q·N/100 may round across an integer.
    """
    absolute = np.abs(values.astype(np.float64))
    low = np.percentile(absolute, q * (1 - 1e-12), method="inverted_cdf")
    high = np.percentile(absolute, min(100.0, q * (1 + 1e-12)), method="inverted_cdf")
    within = 1 + RELATIVE_BIN_WIDTH
    return (
        max(low / within - STEP_OF_DENORMALS, 0.0),
        min(high * within + STEP_OF_DENORMALS, absolute.max()),
    )


@QUICK
@given(VALUES, st.floats(1e-3, 100.0))
def test_the_percentile_is_within_one_bin_of_the_exact_one(values: np.ndarray, q: float) -> None:
    low, high = _bounds(values, q)
    assert low <= estimate(TensorStats.of(values), percentile=q) <= high


@pytest.mark.parametrize("q", [0.01, 1.0, 25.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999])
@pytest.mark.parametrize("kind", ["normal", "laplace", "skewed", "outlier", "sparse"])
def test_the_percentile_of_many_values(kind: str, q: float) -> None:
    draw = np.random.default_rng(7)
    values: np.ndarray = draw.standard_normal(200_000)
    if kind == "laplace":
        values = draw.laplace(size=200_000)
    elif kind == "skewed":
        values = -(draw.gamma(0.5, size=200_000) ** 3)
    elif kind == "outlier":
        values[:5] = 1e6
    elif kind == "sparse":
        values[draw.random(200_000) < 0.97] = 0.0
    values = values.astype(np.float32)
    low, high = _bounds(values, q)
    assert low <= estimate(TensorStats.of(values), percentile=q) <= high


def test_the_percentile_interpolates_within_a_bin() -> None:
    """On evenly spread values the estimate is far better than a whole bin."""
    values = np.random.default_rng(0).uniform(1.0, 2.0, 400_000).astype(np.float32)
    for q in (10.0, 50.0, 90.0):
        exact = np.percentile(values.astype(np.float64), q)
        actual = estimate(TensorStats.of(values), percentile=q)
        assert abs(actual - exact) < 0.1 * RELATIVE_BIN_WIDTH * exact


@QUICK
@given(VALUES)
def test_one_hundred_percent_is_the_largest_magnitude(values: np.ndarray) -> None:
    stats = TensorStats.of(values)
    assert estimate(stats, percentile=100.0) == stats.absmax


@QUICK
@given(VALUES, st.floats(1e-3, 100.0), st.floats(1e-3, 100.0))
def test_a_higher_percentile_never_gives_a_lower_threshold(
    values: np.ndarray, p: float, q: float
) -> None:
    stats = TensorStats.of(values)
    low, high = sorted((p, q))
    assert estimate(stats, percentile=low) <= estimate(stats, percentile=high)


@QUICK
@given(VALUES, st.floats(1e-3, 100.0))
def test_only_magnitudes_matter(values: np.ndarray, q: float) -> None:
    expected = estimate(TensorStats.of(np.abs(values)), percentile=q)
    assert estimate(TensorStats.of(values), percentile=q) == expected
    assert estimate(TensorStats.of(-values), percentile=q) == expected


def test_outliers_are_clipped_unless_the_percentile_covers_them() -> None:
    values = np.ones(100_000, np.float32)
    values[:5] = -1000.0
    stats = TensorStats.of(values)
    assert stats.absmax == 1000.0
    assert estimate(stats, percentile=99.99) <= 1 + RELATIVE_BIN_WIDTH
    assert estimate(stats, percentile=99.999) >= 1000 / (1 + RELATIVE_BIN_WIDTH)


@pytest.mark.parametrize("value", [0.0, -0.0])
def test_zeros_of_either_sign_give_a_threshold_of_zero(value: float) -> None:
    stats = TensorStats.of(np.full(9, value, np.float32))
    assert stats.count == 9
    assert stats.absmax == 0.0
    assert estimate(stats) == 0.0


@pytest.mark.parametrize("value", [3.7, -3.7, 1e-40, -1e-45, 3.4e38, 1.0, 2.0**-126])
@pytest.mark.parametrize("count", [1, 2, 1000])
def test_a_constant_is_its_own_percentile(value: float, count: int) -> None:
    values = np.full(count, value, np.float32)
    stats = TensorStats.of(values)
    exact = abs(float(values[0]))
    assert stats.absmax == exact
    for q in (0.5, 50.0, 99.99):
        amax = estimate(stats, percentile=q)
        assert exact / (1 + RELATIVE_BIN_WIDTH) - STEP_OF_DENORMALS <= amax <= exact


@pytest.mark.parametrize(
    ("values", "count"),
    [([np.nan, 1.0], 1), ([np.inf, -np.inf, 0.0], 2), ([-np.nan, np.nan, np.inf], 3), ([1.0], 0)],
)
def test_nan_and_infinity_are_counted(values: list[float], count: int) -> None:
    stats = TensorStats.of(np.array(values, np.float32))
    assert stats.nonfinite == count
    assert stats.count == len(values)
    assert stats.merge(stats).nonfinite == 2 * count


def test_the_largest_finite_value_is_finite() -> None:
    largest = np.finfo(np.float32).max
    stats = TensorStats.of(np.array([largest, -largest], np.float32))
    assert stats.nonfinite == 0
    assert estimate(stats, percentile=100.0) == float(largest)


def test_nothing_merges_into_anything() -> None:
    empty = TensorStats.of(np.zeros((0, 4), np.float32))
    some = TensorStats.of(np.array([-1.0, 2.0], np.float32))
    assert empty.count == 0
    assert _same(empty.merge(some), some)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64])
def test_other_types_and_orders_are_read_as_values(dtype: type) -> None:
    values: np.ndarray = np.arange(-6, 6).reshape(3, 4).astype(dtype)
    expected = TensorStats.of(values.astype(np.float32))
    assert _same(TensorStats.of(values.T), expected)
    assert _same(TensorStats.of(values[:, ::-1]), expected)
