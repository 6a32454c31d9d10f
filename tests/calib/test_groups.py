"""Channels in groups and channels in float: the same function, and outliers that no longer hurt."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from calib.collector import channel_means
from calib.grouping import Grouped, Grouping, group_channels, read_saturated
from calib.placement import Placement
from calib.qdq import insert_qdq
from calib.smoothing import correct_biases
from calib.weights import WeightScheme
from export.matmuls import find_matmuls
from export.passes.plant_outliers import PlantOutliers
from export.passes.simulate import Simulate
from tests.calib.test_smoothing import (
    batches,
    block,
    outputs,
    parameters,
    placed,
    quantized_error,
    statistics,
)
from tests.export.graphs import graph_from_text, normal, operators
from trueint8.errors import ConfigError
from trueint8.progress import Silence

ONE = "g (float[b, t, 16] x) => (float[b, t, 16] y) { [fc] y = MatMul(x, w) }"


def one() -> ir.Model:
    return graph_from_text(ONE, {"w": normal(1, 16, 16)})


def grouped(model: ir.Model, how: Grouping) -> tuple[Grouped, Placement]:
    before = placed(model)
    made = group_channels(model, before.quantized, statistics(model), how)
    return made, before.carried_to(find_matmuls(model, modules_named=False), made.reasons)


def simulated_error(model: ir.Model, how: Grouping, expected: np.ndarray) -> float:
    """Return the mean squared error of the INT8 graph, calibrated after the split."""
    _, placement = grouped(model, how)
    params = parameters(model)
    read_saturated(model)
    insert_qdq(model, placement, params)
    Simulate()(model)
    return float(((outputs(model) - expected) ** 2).mean())


@pytest.mark.parametrize("how", [Grouping(3), Grouping(1, 2), Grouping(4, 3)])
def test_the_float_function_is_the_same(how: Grouping) -> None:
    model = block()
    expected = outputs(model)
    made, _ = grouped(model, how)
    order = {"n": "residual", "c": "gather", "r": "residual", "h": "columns"}
    assert made.moved == (order if how.groups > 1 else dict.fromkeys(order, "unsorted"))
    np.testing.assert_allclose(outputs(model), expected, atol=2e-5 * np.abs(expected).max())
    read_saturated(model)
    assert "Identity" in operators(model) or not how.float_channels
    np.testing.assert_allclose(outputs(model), expected, atol=2e-5 * np.abs(expected).max())


def test_every_part_is_a_matmul_of_its_own_name() -> None:
    model = block()
    made, placement = grouped(model, Grouping(2, 1))
    names = ("q", "k", "v", "o", "fc1", "fc2")
    parts = [f"{n}/{part}" for n in names for part in ("group0", "group1", "outliers")]
    assert sorted(made.reasons) == sorted(parts)
    floating = {s.matmul.name for s in placement.sites if "--float-channels" in s.reason}
    assert floating == {f"{n}/outliers" for n in names}
    assert [m.name for m in placement.quantized] == [p for p in parts if "group" in p]
    assert operators(model).count("Split") == 4, "what reads one activation shares its parts"


def test_one_group_is_per_tensor_exactly() -> None:
    plain, expected = block(), outputs(block())
    error = quantized_error(plain, expected)
    model = block()
    assert simulated_error(model, Grouping(), expected) == error
    np.testing.assert_array_equal(outputs(model), outputs(plain))


def test_a_group_per_channel_is_per_channel_quantization() -> None:
    model = one()
    simulated_error(model, Grouping(16), np.zeros(()))
    seen = np.concatenate([b["x"] for b in batches()]).reshape(-1, 16)
    scale = np.abs(seen).max(axis=0).astype(np.float64) / 127
    x = np.concatenate([b["x"] for b in batches(90)])
    expected = np.clip(np.rint(x / scale), -128, 127) * scale @ normal(1, 16, 16)
    np.testing.assert_allclose(outputs(model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_the_widest_channels_share_the_last_group(groups: int) -> None:
    model = one()
    stats = statistics(model)["x"]
    assert stats.channel_maximum is not None and stats.channel_minimum is not None
    order = np.argsort(stats.channel_maximum - stats.channel_minimum)
    grouped(model, Grouping(groups))
    found = [model.graph.initializers[f"fc/group{i}.weight"].const_value for i in range(groups)]
    rows = [tensor.numpy() for tensor in found if tensor is not None]
    assert max(map(len, rows)) - min(map(len, rows)) <= 1
    np.testing.assert_array_equal(np.concatenate(rows), normal(1, 16, 16)[order])


@pytest.mark.parametrize("factor", [32.0, 128.0])
def test_planted_outliers_hurt_less_in_groups_and_not_at_all_in_float(factor: float) -> None:
    plain = block()
    expected = outputs(plain)
    clean = quantized_error(plain, expected)

    def planted() -> ir.Model:
        model = block()
        PlantOutliers(channels=2, factor=factor)(model)
        return model

    broken = quantized_error(planted(), expected)
    assert broken > 5 * clean
    four, eight = (simulated_error(planted(), Grouping(k), expected) for k in (4, 8))
    assert four < broken / 4, "of 16 channels, two ordinary ones are in the planted ones' group"
    assert eight < min(broken / 20, 5 * clean), "the planted ones are alone"
    for how in (Grouping(1, 2), Grouping(2, 2)):
        assert simulated_error(planted(), how, expected) < 1.5 * clean


def test_a_shared_weight_is_cut_once() -> None:
    text = """
    g (float[b, t, 16] x) => (float[b, t, 16] y) {
        [one] a = MatMul(x, w)
        b = Add(a, x)
        [two] y = MatMul(b, w)
    }"""
    model = graph_from_text(text, {"w": normal(1, 16, 16)})
    expected = outputs(model)
    grouped(model, Grouping(2))
    assert [n for n in model.graph.initializers if n and "weight" in n] == [
        "one/group0.weight", "one/group1.weight",
    ]  # fmt: skip
    np.testing.assert_allclose(outputs(model), expected, rtol=1e-4, atol=1e-4)


def test_bias_correction_goes_through_the_sum_into_the_bias() -> None:
    text = "g (float[b, t, 16] x) => (float[b, t, 16] y) { [fc] a = MatMul(x, w) y = Add(a, bias) }"
    model = graph_from_text(text, {"w": normal(1, 16, 16) + 0.3, "bias": normal(2, 16)})
    coarse = WeightScheme(per_channel=False)
    _, placement = grouped(model, Grouping(2))
    params = parameters(model)
    means = channel_means(model, params, batches(), progress=Silence())
    adds = operators(model).count("Add")
    before = outputs(model)
    correct_biases(model, placement.quantized, means, coarse)
    assert operators(model).count("Add") == adds
    drift = sum(
        m.quantized @ (q * s) - m.exact @ w
        for m, (q, s, w) in (
            (means[f"x_group{i}"], _coarse(model, f"fc/group{i}.weight")) for i in (0, 1)
        )
    )
    np.testing.assert_allclose(
        (before - outputs(model)).mean(axis=(0, 1)), drift, rtol=1e-3, atol=1e-5
    )


def _coarse(model: ir.Model, name: str) -> tuple[np.ndarray, float, np.ndarray]:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    weight = tensor.numpy().astype(np.float64)
    scale = np.abs(weight).max() / 127
    return np.clip(np.rint(weight / scale), -128, 127), float(scale), weight


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (Grouping(17), "16 channels, too few for 17 groups"),
        (Grouping(1, 16), "16 channels; 16 in float leave none"),
    ],
)
def test_too_few_channels_are_refused(how: Grouping, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        grouped(one(), how)
    assert "--keep-float" in refused.value.fix


@pytest.mark.parametrize("numbers", [(0, 0), (-1, 0), (1, -1)])
def test_what_is_no_number_of_channels_is_refused(numbers: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        Grouping(*numbers)
