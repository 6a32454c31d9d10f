"""Every pass leaves a graph that computes the same, by ONNX Runtime's own account."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest

from calib.placement import place_qdq
from calib.qdq import insert_qdq
from calib.schemes import Range, params_of_range
from export.matmuls import find_matmuls
from export.passes import clean
from export.passes.name_matmuls import NameMatMuls
from export.passes.simulate import Simulate
from export.passes.split_gemm import SplitGemm
from export.passes.unsigned_activations import UnsignedActivations
from tests.export.graphs import graph_from_text, normal, operators, run_plainly

MLP = """
mlp (float[batch, t, 16] x) => (float[batch, t, 8] y) {
    [first] h = MatMul(x, w0)
    g = Relu(h)
    [left] u = MatMul(w1, g)
    [last] m = MatMul(u, w2)
    y = Add(m, b)
}
"""
X = normal(9, 3, 5, 16)


def _quantized() -> ir.Model:
    """Return a quantized graph with weights on both sides and an activation that clips."""
    weights = {"w0": normal(0, 16, 12), "w1": normal(1, 5, 5), "w2": normal(2, 12, 8)}
    model = graph_from_text(MLP, weights | {"b": normal(3, 8)})
    placement = place_qdq(find_matmuls(model, modules_named=False), quantize_head=True)
    amax = {"x": 1.5, "g": 4.0, "u": 9.0}
    assert set(placement.tensors) == set(amax)
    insert_qdq(model, placement, {k: params_of_range(k, Range(-v, v)) for k, v in amax.items()})
    return model


@pytest.mark.parametrize(
    ("trans_a", "trans_b", "alpha", "beta", "bias"),
    [*itertools.product((0, 1), (0, 1), (1.0, 0.3), (1.0, -2.5), (None, (4,), (1, 4), (5, 4), ()))],
)
def test_a_split_gemm_gives_what_the_gemm_gave(
    trans_a: int, trans_b: int, alpha: float, beta: float, bias: tuple[int, ...] | None
) -> None:
    a = normal(0, *((6, 5) if trans_a else (5, 6)))
    weights = {"b": normal(1, *((4, 6) if trans_b else (6, 4)))}
    if bias is not None:
        weights["c"] = normal(2, *bias)
    attributes = f"transA={trans_a}, transB={trans_b}, alpha={alpha}, beta={beta}"
    text = (
        f"g (float[r, s] a) => (float[m, 4] y) "
        f"{{ [lin] y = Gemm<{attributes}>(a, b{'' if bias is None else ', c'}) }}"
    )
    model = graph_from_text(text, weights)
    (expected,) = run_plainly(model, {"a": a})
    assert SplitGemm()(model).modified
    assert "Gemm" not in operators(model)
    assert [n.name for n in model.graph if n.op_type == "MatMul"] == ["lin"]
    assert model.graph.outputs[0].name == "y"
    (actual,) = run_plainly(model, {"a": a})
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_one_weight_in_two_gemms_keeps_a_value_for_each() -> None:
    text = """g (float[5, 6] a) => (float[5, 6] y) {
        h = Gemm<alpha=2.0, transB=1>(a, b)
        y = Gemm<alpha=0.5, transB=1>(h, b)
    }"""
    model = graph_from_text(text, {"b": normal(1, 6, 6)})
    (expected,) = run_plainly(model, {"a": normal(0, 5, 6)})
    SplitGemm()(model)
    (actual,) = run_plainly(model, {"a": normal(0, 5, 6)})
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_a_gemm_of_activations_stays() -> None:
    text = "g (float[4, 4] a, float[4, 4] c) => (float[4, 4] y) { y = Gemm(a, c, b) }"
    model = graph_from_text(text, {"b": normal(1, 4, 4)})
    assert not SplitGemm()(model).modified
    assert operators(model) == ["Gemm"]


def test_simulation_computes_what_the_quantized_graph_computes() -> None:
    quantized = _quantized()
    (expected,) = run_plainly(quantized, {"x": X})
    simulated = _quantized()
    assert Simulate()(simulated).modified
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(operators(simulated))
    kinds = {v.dtype for v in simulated.graph.initializers.values()}
    assert kinds == {ir.DataType.FLOAT}
    (actual,) = run_plainly(simulated, {"x": X})
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_simulation_is_not_the_float_graph() -> None:
    """Guards the test above: quantization must move the result far beyond its tolerance."""
    weights = {"w0": normal(0, 16, 12), "w1": normal(1, 5, 5), "w2": normal(2, 12, 8)}
    (floating,) = run_plainly(graph_from_text(MLP, weights | {"b": normal(3, 8)}), {"x": X})
    (quantized,) = run_plainly(_quantized(), {"x": X})
    assert np.abs(floating - quantized).max() > 1e-2 * np.abs(floating).max()


def test_a_graph_without_quantization_is_not_modified() -> None:
    model = graph_from_text("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    assert not Simulate()(model).modified
    assert not UnsignedActivations()(model).modified


def test_unsigned_activations_are_equal_to_the_bit() -> None:
    (expected,) = run_plainly(_quantized(), {"x": X})
    unsigned = _quantized()
    assert UnsignedActivations()(unsigned).modified
    (actual,) = run_plainly(unsigned, {"x": X})
    assert actual.tobytes() == expected.tobytes()
    for node in unsigned.graph:
        if node.op_type == "QuantizeLinear":
            zero = node.inputs[2]
            assert zero is not None and zero.const_value is not None
            assert zero.dtype == ir.DataType.UINT8
            assert int(zero.const_value.numpy()) == 128
    weights = [v for v in unsigned.graph.initializers.values() if str(v.name).endswith("_int8")]
    assert len(weights) == 3 and {v.dtype for v in weights} == {ir.DataType.INT8}


def test_every_matmul_gets_a_name_of_its_own() -> None:
    text = """g (float[4, 4] x) => (float[4, 4] y) {
        [MatMul_0] r = Relu(x)
        a = MatMul(r, w)
        [same] b = MatMul(a, w)
        [same] c = MatMul(b, w)
        [same] d = MatMul(c, w)
        y = MatMul(d, d)
    }"""
    model = graph_from_text(text, {"w": normal(0, 4, 4)})
    NameMatMuls()(model)
    names = [n.name for n in model.graph if n.op_type == "MatMul"]
    assert names == ["MatMul_0.1", "same", "same.1", "same.2", "MatMul_4"]


def test_a_lone_bias_or_scale_is_called_after_its_matmul() -> None:
    text = """g (float[4, 4] x) => (float[4, 4] y) {
        [lin] a = MatMul(x, w)
        [old] b = Add(a, c)
        [mm] d = MatMul(b, b)
        y = Mul(d, s)
    }"""
    weights = {"w": normal(0, 4, 4), "c": normal(1, 4), "s": normal(2, 1)}
    model = graph_from_text(text, weights)
    NameMatMuls()(model)
    assert [n.name for n in model.graph] == ["lin", "lin/add", "mm", "mm/mul"]


def test_modules_name_matmuls_and_their_folded_weights() -> None:
    text = "g (float[4, 4] x) => (float[4, 4] y) { a = MatMul(x, val_3)  y = MatMul(a, x) }"
    model = graph_from_text(text, {"val_3": normal(0, 4, 4)})
    scopes = ["['', 'model.bert.dense', 'linear']", "['', 'model.bert.self', 'matmul_1']"]
    for node, scope in zip(model.graph, scopes, strict=True):
        node.metadata_props["pkg.torch.onnx.name_scopes"] = scope
    NameMatMuls()(model)
    assert [n.name for n in model.graph] == ["bert.dense", "bert.self/matmul_1"]
    assert list(model.graph.initializers) == ["bert.dense.weight"]


def test_clean_names_lifts_splits_and_drops_metadata() -> None:
    text = """g (float[3, 4] x) => (float[3, 4] y) {
        unused = Relu(x)
        w = Constant<value = float[4, 4] {1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 4}>()
        [lin] y = Gemm<transB=1>(x, w)
    }"""
    model = graph_from_text(text)
    for node in model.graph:
        node.metadata_props["stack_trace"] = "/home/someone/private.py"
        node.doc_string = "/home/someone"
    x = normal(0, 3, 4)
    model = clean(model)
    assert operators(model) == ["MatMul"]
    assert not any(n.metadata_props or n.doc_string for n in model.graph)
    (actual,) = run_plainly(model, {"x": x})
    np.testing.assert_array_equal(actual, x * np.array([1, 2, 3, 4], np.float32))
