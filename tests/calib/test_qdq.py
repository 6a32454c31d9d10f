"""Q/DQ in the graph, printed, and what the quantized graph computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from calib.placement import ATTENTION_REASON, HEAD_REASON, Placement, place_qdq
from calib.qdq import insert_qdq
from calib.schemes import Range, params_of_range
from calib.stats import TensorStats
from export.initializers import add_initializer
from export.matmuls import find_matmuls
from tests.export.graphs import graph_from_text, normal, operators, printed, run_plainly
from trueint8.errors import CalibrationError

GOLDEN = Path(__file__).parents[1] / "golden"

ATTENTION = """
layer (float[b, t, 8] x) => (float[b, t, 6] y) {
    [self__query] q = MatMul(x, wq)
    [self__key] k = MatMul(x, wk)
    [self__value] v = MatMul(x, wv)
    kt = Transpose<perm=[0, 2, 1]>(k)
    [self__matmul] s = MatMul(q, kt)
    p = Softmax(s)
    [self__matmul_1] a = MatMul(p, v)
    [output__dense] m = MatMul(a, wo)
    y = Add(m, bias)
}
"""
WEIGHTS = {
    "wq": normal(0, 8, 8),
    "wk": normal(1, 8, 8),
    "wv": normal(2, 8, 8),
    "wo": normal(3, 8, 6),
    "bias": normal(4, 6),
}
X = normal(5, 2, 3, 8)


def _place(model: ir.Model, *, quantize_head: bool = True) -> Placement:
    matmuls = find_matmuls(model, modules_named=False)
    return place_qdq(matmuls, quantize_head=quantize_head)


def _quantize(model: ir.Model, amax: dict[str, float]) -> ir.Model:
    placement = _place(model)
    assert set(amax) == set(placement.tensors)
    insert_qdq(model, placement, {k: params_of_range(k, Range(-v, v)) for k, v in amax.items()})
    return model


def _fake(values: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """Quantize and dequantize in float64."""
    integers = np.clip(np.rint(values.astype(np.float64) / scale), -128, 127)
    return np.asarray(integers * scale)


def _fake_weight(weight: np.ndarray, axis: int) -> np.ndarray:
    wide = weight.astype(np.float64)
    scale = (np.abs(wide).max(axis=1 - axis, keepdims=True) / 127).astype(np.float32)
    return _fake(wide, scale.astype(np.float64))


def test_a_layer_printed() -> None:
    model = _quantize(graph_from_text(ATTENTION, WEIGHTS), {"x": 3.0, "a": 2.0})
    assert printed(model) == (GOLDEN / "qdq_attention_layer.txt").read_text("utf-8")


def test_query_key_and_value_share_one_pair() -> None:
    model = _quantize(graph_from_text(ATTENTION, WEIGHTS), {"x": 3.0, "a": 2.0})
    assert operators(model).count("QuantizeLinear") == 2
    assert operators(model).count("DequantizeLinear") == 2 + 4
    readers = {n.name: n.inputs[0] for n in model.graph if str(n.name).startswith("self.")}
    shared = {id(readers[f"self.{n}"]) for n in ("query", "key", "value")}
    assert len(shared) == 1


def test_every_matmul_has_a_decision_and_a_reason() -> None:
    sites = _place(graph_from_text(ATTENTION, WEIGHTS)).sites
    assert {s.matmul.name: s.reason for s in sites} == {
        "self.query": "",
        "self.key": "",
        "self.value": "",
        "self.matmul": ATTENTION_REASON,
        "self.matmul_1": ATTENTION_REASON,
        "output.dense": "",
    }
    assert [s.quantized for s in sites] == [not s.reason for s in sites]


def test_a_layer_computes_what_numpy_computes() -> None:
    model = _quantize(graph_from_text(ATTENTION, WEIGHTS), {"x": 3.0, "a": 2.0})
    (actual,) = run_plainly(model, {"x": X})
    x = _fake(X, np.float64(np.float32(3.0 / 127)))
    q, k, v = (x @ _fake_weight(WEIGHTS[n], 1) for n in ("wq", "wk", "wv"))
    scores = q @ k.transpose(0, 2, 1)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    a = _fake(p @ v, np.float64(np.float32(2.0 / 127)))
    expected = a @ _fake_weight(WEIGHTS["wo"], 1) + WEIGHTS["bias"]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_weights_are_stored_as_int8_and_nothing_of_them_in_float() -> None:
    model = _quantize(graph_from_text(ATTENTION, WEIGHTS), {"x": 3.0, "a": 2.0})
    kinds = {str(n): v.dtype for n, v in model.graph.initializers.items()}
    assert not {"wq", "wk", "wv", "wo"} & kinds.keys()
    assert kinds["self.query.weight_int8"] == ir.DataType.INT8
    assert kinds["bias"] == ir.DataType.FLOAT
    large = [n for n, v in model.graph.initializers.items() if v.shape is not None
             and len(v.shape) == 2 and v.dtype != ir.DataType.INT8]  # fmt: skip
    assert not large


def test_a_weight_of_two_matmuls_is_quantized_once() -> None:
    text = """g (float[4, 8] x) => (float[4, 8] y) {
        [one] a = MatMul(x, w)
        [two] y = MatMul(a, w)
    }"""
    w = normal(0, 8, 8)
    model = _quantize(graph_from_text(text, {"w": w}), {"x": 2.0, "a": 5.0})
    int8 = [v for v in model.graph.initializers.values() if str(v.name).endswith("weight_int8")]
    assert [v.name for v in int8] == ["one.weight_int8"]
    assert operators(model).count("DequantizeLinear") == 3
    x = normal(1, 4, 8)
    scales = [np.float64(np.float32(v / 127)) for v in (2.0, 5.0)]
    expected = _fake(_fake(x, scales[0]) @ _fake_weight(w, 1), scales[1]) @ _fake_weight(w, 1)
    np.testing.assert_allclose(run_plainly(model, {"x": x})[0], expected, rtol=1e-4, atol=1e-4)


def test_a_head_tied_to_the_embedding_keeps_the_embedding_in_float() -> None:
    text = """lm (int64[b, t] ids) => (float[b, t, 32] y) {
        e = Gather(table, ids)
        tied = Transpose<perm=[1, 0]>(table)
        [decoder] y = MatMul(e, tied)
    }"""
    table = normal(0, 32, 8)
    model = graph_from_text(text, {"table": table})
    assert [s.reason for s in _place(model, quantize_head=False).sites] == [HEAD_REASON]
    model = _quantize(model, {"e": 2.0})
    assert "Transpose" not in operators(model)
    kinds = {str(n): (v.dtype, tuple(v.shape or ())) for n, v in model.graph.initializers.items()}
    assert kinds["table"] == (ir.DataType.FLOAT, (32, 8))
    assert kinds["decoder.weight_int8"] == (ir.DataType.INT8, (8, 32))
    assert kinds["decoder.weight_scale"] == (ir.DataType.FLOAT, (32,))
    ids = np.array([[0, 5, 31]])
    e = _fake(table[ids], np.float64(np.float32(2.0 / 127)))
    expected = e @ _fake_weight(np.ascontiguousarray(table.T), 1)
    np.testing.assert_allclose(run_plainly(model, {"ids": ids})[0], expected, rtol=1e-4, atol=1e-4)


def test_a_weight_on_the_left_has_a_scale_for_each_row() -> None:
    text = "g (float[8, n] x) => (float[5, n] y) { [mix] y = MatMul(w, x) }"
    w = normal(0, 5, 8) * np.logspace(-3, 3, 5, dtype=np.float32)[:, None]
    model = _quantize(graph_from_text(text, {"w": w}), {"x": 2.0})
    scale = model.graph.initializers["mix.weight_scale"].const_value
    assert scale is not None
    np.testing.assert_allclose(scale.numpy(), np.abs(w).max(axis=1) / 127, rtol=1e-6)
    x = normal(1, 8, 3)
    expected = _fake_weight(w, 0) @ _fake(x, np.float64(np.float32(2.0 / 127)))
    (actual,) = run_plainly(model, {"x": x})
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_without_a_decision_nothing_changes() -> None:
    model = graph_from_text(ATTENTION, WEIGHTS)
    before = printed(model)
    insert_qdq(model, Placement([]), {})
    assert printed(model) == before


def test_a_weight_that_is_not_finite_is_refused_by_name() -> None:
    broken = WEIGHTS | {"wk": np.full((8, 8), np.nan, np.float32)}
    with pytest.raises(CalibrationError, match="'self.key.weight' holds 64 NaN"):
        _quantize(graph_from_text(ATTENTION, broken), {"x": 3.0, "a": 2.0})


def test_an_initializers_name_cannot_be_taken_twice() -> None:
    model = graph_from_text(ATTENTION, WEIGHTS)
    with pytest.raises(ValueError, match="wq"):
        add_initializer(model.graph, "wq", np.zeros(1, np.float32))


def test_calibrated_ranges_bring_the_quantized_layer_close_to_float() -> None:
    """Ranges from the data itself give a few percent; ranges a hundred times too wide do not."""
    (floating,) = run_plainly(graph_from_text(ATTENTION, WEIGHTS), {"x": X})
    amax = {"x": TensorStats.of(X).absmax, "a": 8.0}
    (good,) = run_plainly(_quantize(graph_from_text(ATTENTION, WEIGHTS), amax), {"x": X})
    wide = {k: 100 * v for k, v in amax.items()}
    (bad,) = run_plainly(_quantize(graph_from_text(ATTENTION, WEIGHTS), wide), {"x": X})
    largest = np.abs(floating).max()
    assert np.abs(good - floating).max() < 0.1 * largest
    assert np.abs(bad - floating).max() > 0.1 * largest
