"""FP16-typed graphs: what stays FP32, and what they compute."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from attention.variants import VARIANTS
from calib.placement import judge_attentions, place_qdq
from calib.qdq import insert_qdq
from calib.schemes import Range, params_of_range
from export.attentions import find_attentions
from export.matmuls import find_matmuls
from export.passes.to_half import ToHalf
from tests.calib.test_placement import EXTENT, RULES
from tests.export.attention_graphs import Block, exported
from tests.export.graphs import graph_from_text, normal, run_plainly
from trueint8.errors import ExportError


def _graph(block: Block) -> ir.Model:
    return ir.from_proto(onnx.load_from_string(exported(block)))


@pytest.mark.parametrize(
    ("variant", "decoder"),
    [*((name, False) for name in VARIANTS.names()), ("vanilla", True), ("differential", True)],
)
def test_every_variant_computes_nearly_the_same_in_half(variant: str, decoder: bool) -> None:
    block = Block(variant, heads=4, decoder=decoder)
    model = _graph(block)
    (expected,) = run_plainly(model, block.inputs())
    ToHalf()(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert {v.dtype for v in model.graph.outputs} == {ir.DataType.FLOAT}
    matmuls = [n for n in model.graph if n.op_type == "MatMul"]
    assert {v.dtype for n in matmuls for v in n.inputs if v is not None} == {ir.DataType.FLOAT16}
    (actual,) = run_plainly(model, block.inputs())
    assert np.abs(actual - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("variant", ["vanilla", "clipped", "differential"])
def test_qdq_graphs_have_half_scales_and_compute_the_same(variant: str) -> None:
    block = Block(variant, width=64, heads=4, static=True)
    model = _graph(block)
    judged = judge_attentions(find_attentions(model), RULES, EXTENT, "int8")
    placement = place_qdq(
        find_matmuls(model, modules_named=True), quantize_head=True, attentions=judged
    )
    insert_qdq(model, placement, {t: params_of_range(t, Range(-4, 4)) for t in placement.tensors})
    (expected,) = run_plainly(model, block.inputs())
    ToHalf()(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    scales = {n.name: n.inputs[1] for n in model.graph if n.op_type == "QuantizeLinear"}
    single = {str(name).split("/")[0] for name, v in scales.items()
              if v is not None and v.dtype == ir.DataType.FLOAT}  # fmt: skip
    a = placement.attentions[0]
    core = {a.query, a.key, a.value, a.probabilities, a.outputs[0]}
    assert single == (core if variant == "clipped" else set())
    (actual,) = run_plainly(model, block.inputs())
    assert np.abs(actual - expected).max() < 0.05 * np.abs(expected).max()


TEXT = """
norm (float[b, 8] x, float[b, 8] mask) => (float[b, 8] y, float[b, 8] bounded)
<float two = {2.0}, float eps = {1e-6}, float least = {-3.4e38}, float zero = {0.0}> {
    s = Pow(x, two)
    m = ReduceMean<keepdims=1>(s, axes)
    e = Add(m, eps)
    r = Sqrt(e)
    i = Reciprocal(r)
    n = Mul(x, i)
    g = Mul(n, gain)
    blocked = Greater(mask, zero)
    w = Where(blocked, least, zero)
    y = Add(g, w)
    bounded = Clip(g, least, two)
}
"""


def test_squares_of_large_values_and_small_epsilons_survive() -> None:
    """400² is beyond FP16 and 1e-6 rounds away in it; the least float must stay finite twice."""
    constants = {"gain": normal(1, 8), "axes": np.array([-1])}
    model = graph_from_text(TEXT, constants)
    x = np.stack([400 * normal(0, 8), np.zeros(8, np.float32)])
    mask = np.array([[0, 0, 0, 0, 0, 0, 0, 1]] * 2, np.float32)
    expected, bounded = run_plainly(model, {"x": x, "mask": mask})
    ToHalf()(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    half = {str(n) for n, v in model.graph.initializers.items() if v.dtype == ir.DataType.FLOAT16}
    assert {"least_half", "gain_half"} <= half
    actual, limited = run_plainly(model, {"x": x, "mask": mask})
    np.testing.assert_allclose(actual[:, :7], expected[:, :7], rtol=3e-3, atol=3e-3)
    np.testing.assert_allclose(limited, bounded, rtol=3e-3, atol=3e-3)
    assert (actual[:, 7] < -30_000).all() and (2 * actual[:, 7] > -65_536).all()
    values = [v.const_value.numpy() for n, v in model.graph.initializers.items()
              if str(n).startswith("least_half") and v.const_value is not None]  # fmt: skip
    assert sorted(float(v) for v in values) == [-65504.0, -32752.0]


def test_scales_do_not_vanish() -> None:
    text = """g (float[b, 8] x) => (float[b, 8] y) <float s = {1e-12}, int8 z = {0}> {
        q = QuantizeLinear(x, s, z)
        y = DequantizeLinear(q, s, z)
    }"""
    model = graph_from_text(text)
    ToHalf()(model)
    scale = model.graph.initializers["s_half"].const_value
    assert scale is not None and 0 < float(scale.numpy()) < 1e-7


def test_operators_that_make_floats_of_nothing_make_halves() -> None:
    text = """g (float[b, 8] x) => (float[b, 8] y) <float two = {2.0}> {
        s = Shape(x)
        zeros = ConstantOfShape(s)
        ones = ConstantOfShape<value = float[1] {1.0}>(s)
        like = Cast<to = 1>(s)
        low = ReduceMin<keepdims=0>(like)
        a = Add(x, zeros)
        c = Add(a, ones)
        y = Min(c, low)
    }"""
    model = graph_from_text(text)
    x = normal(0, 3, 8)
    (expected,) = run_plainly(model, {"x": x})
    ToHalf()(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    (actual,) = run_plainly(model, {"x": x})
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("text", "opset", "problem"),
    [
        ("g (float[b, 8] x) => (float[b, 8] y) { y = Relu(x) }", 17, "opset 17"),
        (
            """g (bool c, float[8] x) => (float[8] y) {
                y = If (c) <then_branch = t () => (float[8] a) { a = Relu(x) },
                            else_branch = e () => (float[8] b) { b = Neg(x) }>
            }""",
            20,
            "holds If",
        ),
    ],
)
def test_what_cannot_be_half_is_refused(text: str, opset: int, problem: str) -> None:
    with pytest.raises(ExportError, match=problem) as caught:
        ToHalf()(graph_from_text(text, opset=opset))
    assert "--fp32-rest" in caught.value.fix
