"""Smoothing keeps the float function, undoes planted outliers, and corrects what rounding adds."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from calib.collector import channel_means, observe
from calib.estimators import minmax
from calib.placement import Placement, place_qdq
from calib.qdq import insert_qdq
from calib.schemes import QuantParams, params_of_range
from calib.smoothing import METHODS, Smoothing, correct_biases, smooth
from calib.stats import TensorStats
from calib.weights import WeightScheme
from export.matmuls import find_matmuls
from export.onnx_file import model_bytes
from export.passes.plant_outliers import PlantOutliers
from export.passes.simulate import Simulate
from export.reference import open_reference
from tests.export.graphs import graph_from_text, normal
from trueint8.errors import ConfigError, UnknownName
from trueint8.progress import Silence

WIDTH, HEADS, TOKENS = 16, 4, 6

BLOCK = """
g (float[b, t, 16] x) => (float[b, t, 16] y) {
    [norm] n = LayerNormalization<axis=-1>(x, gain, offset)
    [q] q0 = MatMul(n, wq)
    [k] k0 = MatMul(n, wk)
    [v] v0 = MatMul(n, wv)
    v1 = Add(v0, bv)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, heads)
    v2 = Reshape(v1, heads)
    qt = Transpose<perm=[0, 2, 1, 3]>(q1)
    kt = Transpose<perm=[0, 2, 3, 1]>(k1)
    vt = Transpose<perm=[0, 2, 1, 3]>(v2)
    s = MatMul(qt, kt)
    p = Softmax<axis=-1>(s)
    c0 = MatMul(p, vt)
    c1 = Transpose<perm=[0, 2, 1, 3]>(c0)
    c = Reshape(c1, flat)
    [o] o0 = MatMul(c, wo)
    r = Add(o0, x)
    [fc1] h0 = MatMul(r, w1)
    h1 = Add(h0, b1)
    h = Relu(h1)
    [fc2] f0 = MatMul(h, w2)
    y = Add(f0, r)
}
"""


def block() -> ir.Model:
    constants = {
        "gain": 1 + 0.2 * normal(1, WIDTH), "offset": 0.3 * normal(2, WIDTH),
        "bv": normal(6, WIDTH), "b1": normal(8, 32),
        "w1": normal(9, WIDTH, 32) / 4, "w2": normal(10, 32, WIDTH) / 6,
        "heads": np.array([0, 0, HEADS, WIDTH // HEADS]), "flat": np.array([0, 0, WIDTH]),
    }  # fmt: skip
    for seed, name in enumerate(("wq", "wk", "wv", "wo"), 3):
        constants[name] = normal(seed, WIDTH, WIDTH) / 4
    return graph_from_text(BLOCK, constants)


def batches(seed: int = 0, count: int = 4) -> list[dict[str, np.ndarray]]:
    return [{"x": normal(seed + i, 8, TOKENS, WIDTH)} for i in range(count)]


def placed(model: ir.Model) -> Placement:
    return place_qdq(find_matmuls(model, modules_named=False), quantize_head=True)


def outputs(model: ir.Model, seed: int = 90) -> np.ndarray:
    with open_reference(model_bytes(model)) as run:
        return np.concatenate([run(b)["y"] for b in batches(seed)])


def statistics(model: ir.Model) -> dict[str, TensorStats]:
    return observe(model, placed(model).tensors, batches(), progress=Silence()).stats


def parameters(model: ir.Model) -> dict[str, QuantParams]:
    found = statistics(model)
    return {n: params_of_range(n, minmax.estimate(s)) for n, s in found.items()}


def quantized_error(model: ir.Model, expected: np.ndarray) -> float:
    """Return the mean squared error of the INT8 graph, simulated."""
    insert_qdq(model, placed(model), parameters(model))
    Simulate()(model)
    return float(((outputs(model) - expected) ** 2).mean())


@pytest.mark.parametrize("method", METHODS)
def test_the_float_function_is_the_same(method: str) -> None:
    model = block()
    expected = outputs(model)
    stats = statistics(model)
    moved = smooth(model, placed(model).quantized, stats, Smoothing.named(method))
    assert moved == {"n": "norm", "c": "value", "r": "explicit", "h": "explicit"}
    np.testing.assert_allclose(outputs(model), expected, atol=2e-5 * np.abs(expected).max())


def test_shifted_channels_are_centred_and_equally_wide_at_alpha_one() -> None:
    model = block()
    how = Smoothing("shift-scale", 1.0)
    smooth(model, placed(model).quantized, statistics(model), how)
    for name, stats in statistics(model).items():
        assert stats.channel_minimum is not None and stats.channel_maximum is not None
        reach = np.stack([-stats.channel_minimum, stats.channel_maximum])
        some = reach.max(axis=0) > 0
        np.testing.assert_allclose(reach[:, some], stats.absmax, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_planted_outliers_no_longer_hurt(method: str) -> None:
    plain = block()
    expected = outputs(plain)
    clean_error = quantized_error(plain, expected)
    planted, rescued = block(), block()
    for model in (planted, rescued):
        PlantOutliers(channels=2, factor=64.0)(model)
    np.testing.assert_allclose(outputs(planted), expected, atol=1e-4)
    stats = statistics(rescued)
    smooth(rescued, placed(rescued).quantized, stats, Smoothing.named(method))
    broken_error = quantized_error(planted, expected)
    rescued_error = quantized_error(rescued, expected)
    assert broken_error > 20 * clean_error
    assert rescued_error < broken_error / 10


def test_a_clipped_softmax_allows_no_shift_into_values() -> None:
    text = BLOCK.replace("p = Softmax<axis=-1>(s)", "p0 = Softmax<axis=-1>(s)\n    p = Mul(p0, s)")
    reference = block()
    constants = {
        str(v.name): v.const_value.numpy()
        for v in reference.graph.initializers.values()
        if v.const_value is not None
    }
    model = graph_from_text(text, constants)
    expected = outputs(model)
    stats = statistics(model)
    moved = smooth(model, placed(model).quantized, stats, Smoothing.named("shift-scale"))
    assert moved["c"] == "value"
    np.testing.assert_allclose(outputs(model), expected, atol=1e-4 * np.abs(expected).max())


def test_corrected_biases_leave_no_mean_error() -> None:
    text = "g (float[b, t, 16] x) => (float[b, t, 16] y) { [one] y = MatMul(x, w) }"
    coarse = WeightScheme(per_channel=False)
    model = graph_from_text(text, {"w": normal(1, 16, 16) + 0.3})
    data = [{"x": np.abs(b["x"])} for b in batches()]
    seen = observe(model, ["x"], data, progress=Silence())
    params = {"x": params_of_range("x", minmax.estimate(seen.stats["x"]))}
    means = channel_means(model, params, data, progress=Silence())
    everything = np.concatenate([b["x"] for b in data]).reshape(-1, 16).astype(np.float64)
    np.testing.assert_allclose(means["x"].exact, everything.mean(axis=0), rtol=1e-6)

    def drift(corrected: bool) -> float:
        changed = model.clone()
        if corrected:
            correct_biases(changed, placed(changed).quantized, means, coarse)
        insert_qdq(changed, placed(changed), params, coarse)
        Simulate()(changed)
        with open_reference(model) as exact, open_reference(model_bytes(changed)) as run:
            differences = [run(b)["y"].astype(float) - exact(b)["y"] for b in data]
        return float(np.abs(np.concatenate(differences).mean(axis=(0, 1))).max())

    assert drift(corrected=False) > 1e-3
    assert drift(corrected=True) < 1e-5


def test_what_is_no_smoothing_is_refused() -> None:
    with pytest.raises(UnknownName) as unknown:
        Smoothing.named("smoothquand")
    assert "did you mean 'smoothquant'" in unknown.value.fix
    for alpha in (-0.1, 1.1):
        with pytest.raises(ConfigError):
            Smoothing("smoothquant", alpha)
