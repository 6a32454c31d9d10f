"""Statistics merge exactly, whatever the split, and hold what NumPy finds in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from calib.counting import FEW, MANTISSA_BITS
from calib.histogram import RELATIVE_BIN_WIDTH
from calib.stats import MOMENTUM, Accumulator, TensorStats

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
VALUES = arrays.arrays(np.float32, st.integers(1, 60), elements=FLOATS)
NARROW = st.floats(-1e4, 1e4, width=32)
ROWS = arrays.arrays(np.float32, st.tuples(st.integers(1, 20), st.just(3)), elements=NARROW)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _assert_same_values(a: TensorStats, b: TensorStats) -> None:
    for name in ("points", "weights", "bins", "counts"):
        found, expected = getattr(a.histogram, name), getattr(b.histogram, name)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    assert (a.minimum, a.maximum, a.least) == (b.minimum, b.maximum, b.least)
    assert (a.count, a.nonfinite, a.exact) == (b.count, b.nonfinite, b.exact)


def _assert_same(a: TensorStats, b: TensorStats) -> None:
    _assert_same_values(a, b)
    np.testing.assert_array_equal(a.channel_minimum, b.channel_minimum)
    np.testing.assert_array_equal(a.channel_maximum, b.channel_maximum)


def _assert_moments(stats: TensorStats, values: np.ndarray) -> None:
    """Compare with float64; odd moments cancel, so their tolerance is of the largest power."""
    wide = values.astype(np.float64).ravel()
    centred = wide - wide.mean()
    found = stats.moments
    assert found.count == wide.size
    assert found.mean == pytest.approx(wide.mean(), rel=1e-6, abs=1e-12 * np.abs(wide).max())
    largest = np.abs(centred).max() + 1e-12 * np.abs(wide).max()
    for power, actual in ((2, found.m2), (3, found.m3), (4, found.m4)):
        slack = wide.size * largest**power * 1e-9
        assert actual == pytest.approx((centred**power).sum(), rel=1e-6, abs=slack)


@QUICK
@given(ROWS, st.data())
def test_merging_any_split_equals_the_statistics_of_all(
    values: np.ndarray, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    whole = TensorStats.of(values)
    pieces = np.split(values, cuts)
    parts = [TensorStats.of(part) for part in pieces]
    forwards, backwards = parts[0], parts[-1]
    for part in parts[1:]:
        forwards = forwards.merge(part)
    for part in parts[-2::-1]:
        backwards = backwards.merge(part)
    collected = Accumulator()
    for piece in pieces:
        collected.add(piece)
    for merged in (forwards, backwards, collected.stats()):
        _assert_same(merged, whole)
        _assert_moments(merged, values)


@QUICK
@given(ROWS, ROWS, ROWS)
def test_merging_is_associative_and_commutative(
    a: np.ndarray, b: np.ndarray, c: np.ndarray
) -> None:
    x, y, z = (TensorStats.of(v) for v in (a, b, c))
    _assert_same(x.merge(y).merge(z), x.merge(y.merge(z)))
    _assert_same(x.merge(y), y.merge(x))


@QUICK
@given(VALUES)
def test_counts_and_extremes_are_exact(values: np.ndarray) -> None:
    stats = TensorStats.of(values)
    wide = values.astype(np.float64)
    assert stats.count == values.size == int(stats.magnitudes()[2].sum())
    assert (stats.minimum, stats.maximum) == (wide.min(), wide.max())
    assert stats.absmax == np.abs(wide).max()
    assert stats.nonfinite == 0


@QUICK
@given(VALUES)
def test_every_value_lies_in_the_bin_that_counts_it(values: np.ndarray) -> None:
    stats = TensorStats.of(values)
    for wide, (low, high, counts) in (
        (np.sort(values.astype(np.float64)), stats.values()),
        (np.sort(np.abs(values.astype(np.float64))), stats.magnitudes()),
    ):
        ends = np.cumsum(counts).astype(int)
        assert ends[-1] == wide.size
        for start, stop, below, above in zip(
            ends - counts.astype(int), ends, low, high, strict=True
        ):
            assert below <= wide[start] <= wide[stop - 1] <= above


@pytest.mark.parametrize("repeats", [1, 254, 255, 256, 510, 511, 70_000])
def test_counts_beyond_a_byte_are_exact_also_where_a_collection_goes_on(repeats: int) -> None:
    values = np.repeat(np.array([0.0, -1.5, 2.0, 1e-40], np.float32), [repeats, 1, 300, 2])
    values = np.append(values, np.linspace(3.0, 3.0005, repeats + FEW).astype(np.float32))
    whole = TensorStats.of(np.concatenate([values, values]))
    seen = whole.histogram
    known = dict(zip(seen.points.tolist(), seen.weights.tolist(), strict=True))
    assert (known[0.0], known[-1.5], known[2.0]) == (2 * repeats, 2, 600)
    assert known[float(np.float32(1e-40))] == 4
    assert whole.histogram.count == 2 * values.size
    resumed = Accumulator(TensorStats.of(values))
    resumed.add(values)
    _assert_same(resumed.stats(), whole)
    _assert_same(TensorStats.of(values).merge(TensorStats.of(values)), whole)


def _crowded(edges: np.ndarray) -> np.ndarray:
    """Return more values just above each edge than a bin holds exactly, not all equal."""
    bits = edges.astype(np.float32).view(np.uint32)
    return np.concatenate([edges.astype(np.float32)] * FEW + [(bits + 1).view(np.float32)])


def test_bins_are_as_narrow_as_stated() -> None:
    bits = np.arange(1 << MANTISSA_BITS, 0xFF << MANTISSA_BITS, dtype=np.uint32)
    edges = (bits << np.uint32(23 - MANTISSA_BITS)).view(np.float32)
    stats = TensorStats.of(_crowded(edges))
    assert not len(stats.histogram.points)
    low, high, counts = stats.values()
    np.testing.assert_array_equal(low[1:-1], edges)
    assert ((high - low) / low).max() == RELATIVE_BIN_WIDTH
    assert counts.tolist() == [1, FEW, *[FEW + 1] * (len(edges) - 2), FEW, 1]


@pytest.mark.parametrize("magnitude", [2.0**-127, 1e-39, 1e-41])
def test_subnormal_numbers_are_as_well_known(magnitude: float) -> None:
    draw = np.random.default_rng(4).uniform(0.5, 1.0, 20_000) * magnitude
    values = np.concatenate([draw, -draw[:500], np.zeros(300), [1.0]]).astype(np.float32)
    stats = TensorStats.of(values)
    wide = np.sort(values.astype(np.float64))
    low, high, counts = stats.values()
    assert int(counts.sum()) == wide.size
    ends = np.cumsum(counts).astype(int)
    assert (low <= wide[ends - counts.astype(int)]).all() and (wide[ends - 1] <= high).all()
    step = 2.0**-149
    assert (high - low <= np.maximum(np.abs(wide[ends - 1]) * RELATIVE_BIN_WIDTH * 2, step)).all()
    assert counts[low == 0.0].tolist() == [300]


@pytest.mark.parametrize("count", [1, 2, FEW, FEW + 1, 300, 1000])
@pytest.mark.parametrize("at_once", [1, 4, 2000])
def test_few_or_equal_values_are_known_exactly(count: int, at_once: int) -> None:
    values = np.random.default_rng(count).uniform(1.0, 1 + RELATIVE_BIN_WIDTH / 2, count)
    for kept, known in ((values, count <= FEW), (np.full(count, values[0]), True)):
        collected = Accumulator()
        for start in range(0, count, at_once):
            collected.add(kept[start : start + at_once].astype(np.float32))
        found = collected.stats().histogram
        assert len(found.points) == (len(np.unique(kept.astype(np.float32))) if known else 0)
        assert int(found.weights.sum()) == (count if known else 0)
        assert found.count == count


def test_equal_values_are_not_known_once_another_joins_them() -> None:
    same, other = np.full(1000, 1.0001, np.float32), np.array([1.0002], np.float32)
    for parts in ((same, other), (other, same)):
        collected = Accumulator()
        for part in parts:
            collected.add(part)
        _assert_same(collected.stats(), TensorStats.of(parts[0]).merge(TensorStats.of(parts[1])))
        assert collected.stats().histogram.counts.tolist() == [1001]


@pytest.mark.parametrize("shift", [0.0, 3.0, -1000.0])
def test_moments_of_many_values_are_those_of_float64(shift: float) -> None:
    values = (np.random.default_rng(0).gamma(2.0, size=(50, 40, 30)) + shift).astype(np.float32)
    collected = Accumulator()
    for batch in values:
        collected.add(batch)
    found = collected.stats().moments
    wide = values.astype(np.float64)
    centred = wide - wide.mean()
    assert found.mean == pytest.approx(wide.mean(), rel=1e-12)
    for power, actual in ((2, found.m2), (3, found.m3), (4, found.m4)):
        assert actual == pytest.approx((centred**power).sum(), rel=1e-9)


def test_running_extremes_are_an_exponential_moving_average() -> None:
    batches = np.random.default_rng(1).standard_normal((6, 100)).astype(np.float32)
    collected = Accumulator()
    low, high = float(batches[0].min()), float(batches[0].max())
    for index, batch in enumerate(batches):
        if index:
            low = MOMENTUM * low + (1 - MOMENTUM) * float(batch.min())
            high = MOMENTUM * high + (1 - MOMENTUM) * float(batch.max())
        collected.add(batch)
    stats = collected.stats()
    assert (stats.running_minimum, stats.running_maximum) == pytest.approx((low, high), rel=1e-12)
    one_by_one = TensorStats.of(batches[0])
    for batch in batches[1:]:
        one_by_one = one_by_one.merge(TensorStats.of(batch))
    assert one_by_one.running_maximum == pytest.approx(high, rel=1e-12)
    assert one_by_one.batches == 6


def test_channels_are_those_of_the_last_axis_while_it_stays_the_same() -> None:
    values = np.random.default_rng(2).standard_normal((4, 7, 5)).astype(np.float32)
    stats = TensorStats.of(values[:2]).merge(TensorStats.of(values[2:]))
    np.testing.assert_array_equal(stats.channel_minimum, values.min(axis=(0, 1)))
    np.testing.assert_array_equal(stats.channel_maximum, values.max(axis=(0, 1)))
    other = TensorStats.of(values[..., :3])
    assert stats.merge(other).channel_minimum is None
    collected = Accumulator()
    for part in (values, values[..., :3], values):
        collected.add(part)
    assert collected.stats().channel_maximum is None


def test_channels_with_nan_keep_their_finite_extremes() -> None:
    values = np.array([[1.0, np.nan], [-2.0, np.inf], [0.5, 4.0]], np.float32)
    stats = TensorStats.of(values)
    assert stats.channel_minimum is not None and stats.channel_maximum is not None
    assert stats.channel_minimum.tolist() == [-2.0, 4.0]
    assert stats.channel_maximum.tolist() == [1.0, 4.0]
    assert (stats.minimum, stats.maximum, stats.moments.count) == (-2.0, 4.0, 4)


@pytest.mark.parametrize(
    ("dtype", "exact"), [(np.float16, True), (np.float32, False), (np.int8, True)]
)
def test_half_precision_values_are_known_exactly(dtype: type, exact: bool) -> None:
    values: np.ndarray = (np.random.default_rng(3).standard_normal(400) * 50).astype(dtype)
    stats = TensorStats.of(values)
    assert stats.exact is exact
    low, high, counts = stats.values()
    known = np.repeat(low, counts.astype(int))
    if exact:
        np.testing.assert_array_equal(np.sort(values.astype(np.float64)), known)
        np.testing.assert_array_equal(low, high)
    assert not stats.merge(TensorStats.of(np.array([0.1], np.float32))).exact


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
    assert stats.absmax == float(largest)
    assert stats.magnitudes()[1].max() == float(largest)


def test_nothing_merges_into_anything() -> None:
    empty = TensorStats.of(np.zeros((0, 4), np.float32))
    some = TensorStats.of(np.array([-1.0, 2.0], np.float32))
    assert empty.count == 0
    _assert_same(empty.merge(some), some)
    _assert_same(some.merge(empty), some)
    assert empty.absmax == 0.0


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64])
def test_other_types_and_orders_are_read_as_values(dtype: type) -> None:
    values: np.ndarray = np.arange(-6, 6).reshape(3, 4).astype(dtype)
    expected = TensorStats.of(values.astype(np.float32))
    for same in (values.T, values[:, ::-1]):
        _assert_same_values(TensorStats.of(same), expected)
