"""What estimators minimise, at the range they choose, beside the least over all values.

Each kind of tensor is drawn at several sizes from several seeds; nothing is tuned to one of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from calib.estimators import entropy, mse
from calib.kernels import divergences
from calib.schemes import Scheme
from calib.stats import TensorStats
from tests.calib.test_estimators import least_squared_error, squared_error

Draw = Callable[[np.random.Generator, int], np.ndarray]

KINDS: dict[str, Draw] = {
    "t of 2": lambda r, n: r.standard_t(2, n),
    "laplace": lambda r, n: r.laplace(size=n),
    "outlier": lambda r, n: np.append(r.standard_normal(n), -(10 ** r.uniform(1, 9))),
    "few outliers": lambda r, n: np.append(r.standard_normal(n), 100 * r.standard_normal(20)),
    "wide log-normal": lambda r, n: r.lognormal(0, 2, n) * r.choice([-1, 1], n),
    "bimodal": lambda r, n: np.where(r.random(n) < 0.5, -3, 5) + 0.1 * r.standard_normal(n),
    "bimodal, far": lambda r, n: (
        np.where(r.random(n) < 0.9, r.uniform(1, 3), r.uniform(5, 60)) + 0.05 * r.standard_normal(n)
    ),
    "tiny": lambda r, n: r.standard_normal(n) * 1e-38,
    "subnormal": lambda r, n: r.standard_normal(n) * 1e-40,
    "hardly subnormal": lambda r, n: r.standard_normal(n) * 1e-42,
    "half subnormal": lambda r, n: (r.standard_normal(n) * 3e-7).astype(np.float16),
    "half": lambda r, n: r.standard_normal(n).astype(np.float16),
    "uniform": lambda r, n: r.uniform(-1, 1, n),
    "positive": lambda r, n: r.uniform(0, r.uniform(0.1, 9), n),
    "discrete": lambda r, n: r.integers(-20, 21, n) * r.uniform(0.01, 1),
    "few levels": lambda r, n: r.choice(r.standard_normal(200) ** 3, n),
    "counts": lambda r, n: r.poisson(3, n) * 0.1,
    "relu": lambda r, n: np.maximum(r.standard_normal(n), 0),
    "silu": lambda r, n: 2 * (x := r.standard_normal(n)) / (1 + np.exp(-2 * x)),
    "softmax": lambda r, n: r.dirichlet(np.full(64, 0.1), n // 64 + 1).ravel(),
    "mostly zeros": lambda r, n: np.where(r.random(n) < 0.97, 0, r.standard_normal(n)),
    "rarely not zero": lambda r, n: np.where(r.random(n) < 0.99, 0, r.standard_t(2, n)),
    "outlier channels": lambda r, n: (
        r.standard_normal((n // 64 + 1, 64)) * np.where(np.arange(64) < 2, r.uniform(10, 100), 1)
    ),
    "u-shaped": lambda r, n: r.beta(0.2, 0.2, n) * 2 - 1,
    "gamma": lambda r, n: r.gamma(0.3, size=n),
    "large": lambda r, n: r.standard_normal(n) * 1e37,
}
SEEDS = range(3)


def _drawn(kind: str, count: int) -> list[np.ndarray]:
    found = []
    for seed in SEEDS:
        draw = np.random.default_rng([seed, count])
        found.append(np.asarray(KINDS[kind](draw, count)).astype(np.float32).ravel())
    return found


@pytest.mark.parametrize("count", [1_000, 5_000, 50_000])
@pytest.mark.parametrize("kind", KINDS)
def test_the_divergence_is_within_one_percent_of_the_least(kind: str, count: int) -> None:
    for values in _drawn(kind, count):
        magnitudes = np.abs(values.astype(np.float64))
        amax = float(magnitudes.max())
        exact = np.histogram(magnitudes, bins=2048, range=(0, amax))[0].astype(np.float64)
        stats = TensorStats.of(values)
        for bits in (8, 6, 4):
            levels = 2 ** (bits - 1)
            every = divergences(exact, levels)
            kept = round(entropy.estimate(stats, Scheme(bits)).high / amax * 2048)
            assert every[kept - levels] <= 1.01 * every.min() + 1e-9, (bits, kept)


def _nearby(values: np.ndarray, low: float, high: float, scheme: Scheme) -> float:
    """Return the least error of scales and zero points close to a range's."""
    span = high if scheme.symmetric else high - low
    scale = span / scheme.levels
    zero = scheme.levels if scheme.symmetric else round(-low / scale)
    steps = 2 * scheme.levels if scheme.symmetric else scheme.levels
    one_sided = scheme.symmetric or values.min() >= 0 or values.max() <= 0
    zeros = [zero] if one_sided else [z for z in range(zero - 3, zero + 4) if 0 <= z <= steps]
    largest = max(-values.min() / max(zero, 1), values.max() / max(steps - zero, 1))
    errors = []
    for tried in np.minimum(scale * np.geomspace(0.97, 1.03, 61), largest):
        for z in zeros:
            integers = np.clip(np.rint(values / tried), -z, steps - z)
            errors.append(float(((values - tried * integers) ** 2).sum()))
    return min(errors)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_squared_error_is_within_one_percent_of_the_least(kind: str, symmetric: bool) -> None:
    for values in _drawn(kind, 2_000)[:2]:
        wide = values.astype(np.float64)
        stats = TensorStats.of(values)
        for bits in (8, 6, 4, 3):
            scheme = Scheme(bits, symmetric=symmetric)
            found = mse.estimate(stats, scheme)
            least = min(
                least_squared_error(wide, scheme), _nearby(wide, found.low, found.high, scheme)
            )
            limit = 1.01 * least + 1e-12 * float((wide**2).sum())
            assert squared_error(wide, found, scheme) <= limit, bits
