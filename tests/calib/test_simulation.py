"""Operands of few or many bits: NumPy's float64, and at 8 bits the Q/DQ graph itself."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from calib.collector import observe
from calib.placement import place_qdq
from calib.qdq import insert_qdq
from calib.ranges import Estimator, Ranges
from calib.schemes import INT8, Scheme
from calib.simulation import round_operands
from calib.weights import WeightScheme
from export.matmuls import find_matmuls
from export.onnx_file import model_bytes
from export.passes.simulate import Simulate
from export.reference import open_reference
from tests.calib.test_smoothing import batches, block, outputs, parameters, placed
from tests.export.graphs import graph_from_text, normal
from trueint8.progress import Silence

ONE = "g (float[b, t, 16] x) => (float[b, t, 8] y) { [one] y = MatMul(x, w) }"
WEIGHT = normal(1, 16, 8)


def ranges_of(model: ir.Model, tensors: list[str]) -> Ranges:
    seen = observe(model, tensors, batches(), progress=Silence())
    return Ranges("", Estimator("minmax"), [], seen.stats)


def symmetric(values: np.ndarray, bits: int, amax: np.ndarray | float) -> np.ndarray:
    levels = 2 ** (bits - 1) - 1
    step = amax / levels
    return np.asarray(np.clip(np.rint(values / step), -levels, levels) * step)


@pytest.mark.parametrize(
    ("activations", "weights"), [(2, 16), (4, None), (None, 3), (6, 4), (16, 16)]
)
def test_any_width_is_what_numpy_makes_of_it(activations: int | None, weights: int | None) -> None:
    model = graph_from_text(ONE, {"w": WEIGHT})
    ranges = ranges_of(model, ["x"])
    round_operands(
        model,
        place_qdq(find_matmuls(model, modules_named=False), quantize_head=True),
        ranges=ranges,
        activations=None if activations is None else Scheme(activations),
        weights=None if weights is None else WeightScheme(scheme=Scheme(weights)),
    )
    x = np.concatenate([b["x"] for b in batches()]).astype(np.float64)
    w = WEIGHT.astype(np.float64)
    if activations is not None:
        x = symmetric(x, activations, ranges.stats["x"].absmax)
    if weights is not None:
        w = symmetric(w, weights, np.abs(w).max(axis=0))
    with open_reference(model_bytes(model)) as run:
        found = np.concatenate([run(b)["y"] for b in batches()])
    np.testing.assert_allclose(found, x @ w, atol=2e-3 if 16 in (activations, weights) else 1e-4)


def test_eight_bits_are_the_qdq_graph() -> None:
    expected, model = block(), block()
    insert_qdq(expected, placed(expected), parameters(expected))
    Simulate()(expected)
    ranges = ranges_of(model, placed(model).tensors)
    round_operands(model, placed(model), ranges=ranges, activations=INT8, weights=WeightScheme())
    np.testing.assert_array_equal(outputs(model), outputs(expected))


def test_fewer_bits_lose_more() -> None:
    exact = outputs(block())
    ranges = ranges_of(block(), placed(block()).tensors)
    errors = []
    for bits in (12, 8, 6, 4, 2):
        model = block()
        weights = WeightScheme(scheme=Scheme(bits))
        round_operands(
            model, placed(model), ranges=ranges, activations=Scheme(bits), weights=weights
        )
        errors.append(float(((outputs(model) - exact) ** 2).mean()))
    assert errors == sorted(errors) and errors[0] < errors[-1] / 100
