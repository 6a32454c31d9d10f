"""Every estimator against a float64 reference that holds all values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from calib.estimators import entropy, minmax, mse, percentile, running_minmax
from calib.histogram import RELATIVE_BIN_WIDTH
from calib.schemes import Range, Scheme, params_of_range
from calib.stats import MOMENTUM, TensorStats
from trueint8.errors import ConfigError

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
VALUES = arrays.arrays(np.float32, st.integers(1, 60), elements=FLOATS)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
COUNT = 100_000


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 / (1 + np.exp(-1.702 * x)))


DRAWS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "normal": lambda r: r.standard_normal(COUNT),
    "shifted": lambda r: r.standard_normal(COUNT) + 3,
    "heavy tails": lambda r: r.standard_t(3, COUNT),
    "cauchy": lambda r: r.standard_cauchy(COUNT),
    "one outlier": lambda r: np.append(r.standard_normal(COUNT), -1e4),
    "huge outlier": lambda r: np.append(r.standard_normal(COUNT), 3e9),
    "log-normal": lambda r: r.lognormal(0.0, 1.0, COUNT),
    "bimodal": lambda r: np.where(r.random(COUNT) < 0.5, -3, 5) + 0.1 * r.standard_normal(COUNT),
    "tiny": lambda r: r.standard_normal(COUNT) * 1e-30,
    "gelu": lambda r: _gelu(r.standard_normal(COUNT) * 2),
    "probabilities": lambda r: r.dirichlet(np.full(64, 0.1), COUNT // 64).ravel(),
    "half subnormals": lambda r: (r.standard_normal(COUNT) * 3e-7).astype(np.float16),
    "mostly zeros": lambda r: np.where(r.random(COUNT) < 0.97, 0, r.standard_normal(COUNT)),
}
SCHEMES = [Scheme(b, symmetric=s) for b in (8, 6, 4) for s in (True, False)]
SCHEME_IDS = [f"{s.bits}{'s' if s.symmetric else 'a'}" for s in SCHEMES]


def drawn(kind: str) -> np.ndarray:
    return DRAWS[kind](np.random.default_rng(11)).astype(np.float32)


def _bounds(values: np.ndarray, q: float) -> tuple[float, float]:
    """Return the smallest and largest value an estimate of a percentile of values may have.

    The exact percentile is the smallest value that at least q percent of the values do not
    exceed (``inverted_cdf``). The estimate lies in the same bin. q is moved by one part in
    1e12 either way: q·N/100 may round across an integer.
    """
    low = np.percentile(values, q * (1 - 1e-12), method="inverted_cdf")
    high = np.percentile(values, min(100.0, q * (1 + 1e-12)), method="inverted_cdf")
    ends = []
    for value, outwards in ((low, -1), (high, 1)):
        width = abs(value) * RELATIVE_BIN_WIDTH
        ends.append(min(value + outwards * width, values.max()))
    return float(ends[0]), float(ends[1])


def _assert_percentile(values: np.ndarray, q: float) -> None:
    wide = values.astype(np.float64)
    stats = TensorStats.of(values)
    low, high = _bounds(np.abs(wide), q)
    found = percentile.estimate(stats, percentile=q)
    assert low <= found.high <= high
    assert found.low == -found.high
    tails = percentile.estimate(stats, Scheme(symmetric=False), percentile=q)
    low, high = _bounds(wide, 100 - (100 - q) / 2)
    assert max(low, 0.0) <= tails.high <= max(high, 0.0)
    low, high = _bounds(-wide, 100 - (100 - q) / 2)
    assert max(low, 0.0) <= -tails.low <= max(high, 0.0)


@QUICK
@given(VALUES, st.floats(1e-3, 100.0))
def test_the_percentile_is_within_one_bin_of_the_exact_one(values: np.ndarray, q: float) -> None:
    _assert_percentile(values, q)


@pytest.mark.parametrize("q", [0.01, 1.0, 25.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999])
@pytest.mark.parametrize("kind", DRAWS)
def test_the_percentile_of_many_values(kind: str, q: float) -> None:
    _assert_percentile(drawn(kind), q)


def test_the_percentile_interpolates_within_a_bin() -> None:
    """On evenly spread values the estimate is far better than a whole bin."""
    values = np.random.default_rng(0).uniform(1.0, 2.0, 4_000_000).astype(np.float32)
    for q in (10.0, 50.0, 90.0):
        exact = np.percentile(values.astype(np.float64), q)
        actual = percentile.estimate(TensorStats.of(values), percentile=q).high
        assert abs(actual - exact) < 0.1 * RELATIVE_BIN_WIDTH * exact


@QUICK
@given(VALUES)
def test_one_hundred_percent_is_min_max(values: np.ndarray) -> None:
    stats = TensorStats.of(values)
    for scheme in (Scheme(), Scheme(symmetric=False)):
        assert percentile.estimate(stats, scheme, percentile=100.0) == minmax.estimate(
            stats, scheme
        )
    wide = values.astype(np.float64)
    assert minmax.estimate(stats) == Range(-np.abs(wide).max(), np.abs(wide).max())
    expected = Range(min(wide.min(), 0.0), max(wide.max(), 0.0))
    assert minmax.estimate(stats, Scheme(symmetric=False)) == expected


@QUICK
@given(VALUES, st.floats(1e-3, 100.0), st.floats(1e-3, 100.0))
def test_a_higher_percentile_never_gives_a_lower_threshold(
    values: np.ndarray, p: float, q: float
) -> None:
    stats = TensorStats.of(values)
    low, high = sorted((p, q))
    lower = percentile.estimate(stats, percentile=low)
    assert lower.high <= percentile.estimate(stats, percentile=high).high


@QUICK
@given(VALUES, st.floats(1e-3, 100.0))
def test_a_symmetric_percentile_sees_magnitudes_only(values: np.ndarray, q: float) -> None:
    expected = percentile.estimate(TensorStats.of(np.abs(values)), percentile=q)
    assert percentile.estimate(TensorStats.of(values), percentile=q) == expected
    assert percentile.estimate(TensorStats.of(-values), percentile=q) == expected


def test_outliers_are_clipped_unless_the_percentile_covers_them() -> None:
    values = np.ones(100_000, np.float32)
    values[:5] = -1000.0
    stats = TensorStats.of(values)
    assert percentile.estimate(stats, percentile=99.99).high <= 1 + RELATIVE_BIN_WIDTH
    assert percentile.estimate(stats, percentile=99.999).high >= 1000 / (1 + RELATIVE_BIN_WIDTH)


def _running(batches: list[np.ndarray], end: Callable[[np.ndarray], float]) -> float:
    value = end(batches[0])
    for batch in batches[1:]:
        value = MOMENTUM * value + (1 - MOMENTUM) * end(batch)
    return value


def test_the_running_range_is_the_moving_average_of_extremes() -> None:
    draw = np.random.default_rng(5)
    batches = [(draw.standard_normal(500) + 0.5).astype(np.float32) for _ in range(8)]
    stats = TensorStats.of(batches[0])
    for batch in batches[1:]:
        stats = stats.merge(TensorStats.of(batch))
    low = _running(batches, lambda b: float(b.min()))
    high = _running(batches, lambda b: float(b.max()))
    found = running_minmax.estimate(stats, Scheme(symmetric=False))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    assert running_minmax.estimate(stats).high == pytest.approx(max(-low, high), rel=1e-9)


def squared_error(values: np.ndarray, covered: Range, scheme: Scheme) -> float:
    """Return Σ(x − Q(x))² of a float64 quantizer."""
    span = covered.high if scheme.symmetric else covered.high - covered.low
    scale = span / scheme.levels
    zero = 0 if scheme.symmetric else round(min(max(-covered.low / scale, 0), scheme.levels))
    ends = (-scheme.levels, scheme.levels) if scheme.symmetric else (-zero, scheme.levels - zero)
    integers = np.clip(np.rint(values / scale), *ends)
    return float(((values - scale * integers) ** 2).sum())


def least_squared_error(values: np.ndarray, scheme: Scheme) -> float:
    """Return the least error found by brute force over a grid of ranges."""
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    amax = max(-low, high)
    if scheme.symmetric:
        covered = [Range(-t, t) for t in amax * np.geomspace(0.001, 1, 400)]
    else:
        shares = np.geomspace(0.01, 1, 14)
        covered = [Range(low * a, high * b) for a in shares for b in shares]
    return min(squared_error(values, c, scheme) for c in covered if c.high > c.low)


@pytest.mark.parametrize("scheme", SCHEMES, ids=SCHEME_IDS)
@pytest.mark.parametrize("kind", DRAWS)
def test_mse_is_within_one_percent_of_the_least_error(kind: str, scheme: Scheme) -> None:
    values = drawn(kind)[::-1][: COUNT // 4]
    found = mse.estimate(TensorStats.of(values), scheme)
    wide = values.astype(np.float64)
    assert squared_error(wide, found, scheme) <= 1.01 * least_squared_error(wide, scheme)


def divergence(values: np.ndarray, kept: int, levels: int) -> float:
    """Return KL(P‖Q) of |x| clipped to ``kept`` of 2,048 bins, with NumPy, from all values."""
    magnitudes = np.abs(values.astype(np.float64))
    counts, _ = np.histogram(magnitudes, bins=2048, range=(0, magnitudes.max()))
    inside = counts[:kept].astype(np.float64)
    p = inside.copy()
    p[-1] += counts[kept:].sum()
    q = np.zeros(kept)
    for level in range(levels):
        part = slice(level * kept // levels, (level + 1) * kept // levels)
        filled = p[part] > 0
        if filled.any():
            q[part][filled] = inside[part].sum() / filled.sum()
    if not inside.sum():
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    some = p > 0
    with np.errstate(divide="ignore"):
        return float((p[some] * np.log(p[some] / q[some])).sum())


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("kind", DRAWS)
def test_entropy_is_within_one_percent_of_the_least_divergence(kind: str, bits: int) -> None:
    values = drawn(kind)
    found = entropy.estimate(TensorStats.of(values), Scheme(bits))
    amax, levels = float(np.abs(values).max()), 2 ** (bits - 1)
    kept = round(found.high / amax * 2048)
    assert levels <= kept <= 2048
    tried = {*range(levels, 2049, 16), *range(max(levels, kept - 6), min(2048, kept + 6) + 1)}
    least = min(divergence(values, k, levels) for k in tried)
    assert divergence(values, kept, levels) <= 1.01 * least + 1e-9
    cut = entropy.estimate(TensorStats.of(values), Scheme(bits, symmetric=False))
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    assert cut == Range(max(-found.high, low), min(found.high, high))


def test_entropy_refuses_more_bits_than_its_bins_can_tell_apart() -> None:
    with pytest.raises(ConfigError) as caught:
        entropy.estimate(TensorStats.of(drawn("normal")), Scheme(12))
    assert caught.value.problem == "entropy has 2048 bins, too few for 12 bits"


ALL = (minmax, running_minmax, percentile, mse, entropy)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("estimator", ALL, ids=lambda m: m.__name__.split(".")[-1])
@pytest.mark.parametrize("value", [3.7, -3.7, 1e-40, -1e-45, 3.4e38, 1.0, 2.0**-126])
@pytest.mark.parametrize("count", [1, 1000])
def test_a_constant_is_represented(
    estimator: object, symmetric: bool, value: float, count: int
) -> None:
    values = np.full(count, value, np.float32)
    scheme = Scheme(symmetric=symmetric)
    found = estimator.estimate(TensorStats.of(values), scheme)  # type: ignore[attr-defined]
    exact = float(values[0])
    near = found.low if exact < 0 else found.high
    assert near == pytest.approx(exact, rel=0.02, abs=0.0)
    params = params_of_range("x", found, scheme)
    assert float(params.scale) > 0


@pytest.mark.parametrize("estimator", ALL, ids=lambda m: m.__name__.split(".")[-1])
@pytest.mark.parametrize("values", [[], [0.0, -0.0, 0.0], [np.nan], [np.inf, np.nan]])
@pytest.mark.parametrize("symmetric", [True, False])
def test_nothing_and_zeros_have_an_empty_range(
    estimator: object, values: list[float], symmetric: bool
) -> None:
    stats = TensorStats.of(np.array(values, np.float32))
    found = estimator.estimate(stats, Scheme(symmetric=symmetric))  # type: ignore[attr-defined]
    assert (found.low, found.high) == (0.0, 0.0)
