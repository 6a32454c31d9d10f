"""One order for all that is joined to a tensor's channels leaves a graph's function as it was."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from export.channels import ChannelSpace, channel_space
from export.passes.permute_channels import PermuteChannels
from tests.export.graphs import graph_from_text, normal, operators, run_plainly

IDS = np.random.default_rng(3).integers(0, 10, (2, 5))
X = normal(11, 2, 5, 8)


def permuted(model: ir.Model, value: str, seed: int = 5) -> ChannelSpace:
    """Give one value's space a random order, in place."""
    common.ShapeInferencePass()(model)
    found = {v.name: v for node in model.graph for v in node.outputs}
    space = channel_space(model.graph, found[value])
    order = np.random.default_rng(seed).permutation(space.width)
    PermuteChannels(space, order)(model)
    return space


def constants(space: ChannelSpace) -> set[tuple[str, int]]:
    return {(str(v.name), axis) for v, axis in space.constants}


def test_a_hidden_layer_is_sorted_in_the_weights_of_both_producers() -> None:
    text = """
    g (float[b, t, 8] x) => (float[b, t, 8] y) {
        a = MatMul(x, gate)
        s = Sigmoid(a)
        c = Mul(a, s)
        d0 = MatMul(x, up)
        d = Add(d0, bias)
        h = Mul(c, d)
        k = Mul(h, half)
        y = MatMul(k, down)
    }"""
    weights = {
        "gate": normal(1, 8, 6), "up": normal(2, 8, 6), "bias": normal(3, 6),
        "down": normal(4, 6, 8), "half": np.full((1,), 0.5, np.float32),
    }  # fmt: skip
    model = graph_from_text(text, weights)
    (expected,) = run_plainly(model, {"x": X})
    space = permuted(model, "h")
    assert constants(space) == {("gate", 1), ("up", 1), ("bias", 0), ("down", 0)}
    assert not space.sources and "Gather" not in operators(model)
    assert not np.array_equal(model.graph.initializers["bias"].const_value.numpy(), weights["bias"])  # type: ignore[union-attr]
    (actual,) = run_plainly(model, {"x": X})
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


STREAM = """
g (int64[b, t] ids) => (float[b, t, 10] logits) {
    e = Gather<axis=0>(table, ids)
    p2 = Pow(e, two)
    m = ReduceMean<keepdims=1>(p2, last)
    rms = Sqrt(m)
    n0 = Div(e, rms)
    n = Mul(gain, n0)
    f = MatMul(n, w)
    r = Add(e, f)
    o = LayerNormalization<axis=-1>(r, gain2, offset)
    back = Transpose<perm=[1, 0]>(table)
    logits = MatMul(o, back)
}"""


def stream() -> ir.Model:
    return graph_from_text(STREAM, {
        "table": normal(1, 10, 8), "two": np.array(2, np.float32), "last": np.array([-1]),
        "gain": normal(2, 8), "w": normal(3, 8, 8), "gain2": normal(4, 8), "offset": normal(5, 8),
    })  # fmt: skip


def test_a_residual_stream_with_a_tied_table_has_one_order() -> None:
    model = stream()
    (expected,) = run_plainly(model, {"ids": IDS})
    space = permuted(model, "n")
    assert constants(space) == {
        ("table", 1), ("gain", 0), ("w", 0), ("w", 1), ("gain2", 0), ("offset", 0)
    }  # fmt: skip
    assert operators(model) == operators(stream())
    (actual,) = run_plainly(model, {"ids": IDS})
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("reads", "restored"),
    [
        ("q = Reshape(r, heads)\n y = ReduceSum<keepdims=0>(q, two_last)", True),
        ("y = Softmax<axis=-1>(r)", True),
        ("y = Identity(r)", True),
        ("q = Transpose<perm=[0, 2, 1]>(r)\n y = MatMul(wide, q)", True),
        ("y = ReduceMean<keepdims=0>(r, one)", True),
        ("y = ReduceMax<keepdims=1>(r, last)", False),
        ("q = Gather<axis=1>(r, first)\n y = MatMul(q, w3)", False),
        ("q = Gather<axis=-1>(r, first)\n y = Relu(q)", True),
        ("q = Concat<axis=1>(r, row)\n y = MatMul(q, w3)", False),
        ("q = Concat<axis=2>(r, r)\n y = MatMul(q, w2)", True),
    ],
)
def test_what_needs_the_old_order_gets_it(reads: str, restored: bool) -> None:
    text = f"""
    g (float[2, 5, 8] x) => (float y) {{
        a = MatMul(x, w)
        r = Add(a, x)
        {reads}
    }}"""
    given = {
        "w": normal(1, 8, 8), "heads": np.array([0, 0, 2, 4]), "two_last": np.array([2, 3]),
        "wide": normal(2, 3, 8), "one": np.array([1]), "last": np.array([-1]),
        "first": np.array([0, 2]), "row": normal(3, 2, 1, 8), "w2": normal(4, 16, 3),
        "w3": normal(5, 8, 3),
    }  # fmt: skip
    model = graph_from_text(
        text, {k: v for k, v in given.items() if f"{k})" in text or f"{k}," in text}
    )
    model.graph.outputs[0].shape = None
    (expected,) = run_plainly(model, {"x": X})
    before = operators(model).count("Gather")
    space = permuted(model, "r")
    assert {v.name for v in space.sources} == {"x"}
    assert operators(model).count("Gather") == before + 1 + restored
    (actual,) = run_plainly(model, {"x": X})
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_constant_that_is_needed_in_the_old_order_is_copied() -> None:
    text = """
    g (float[2, 5, 8] x, float[2, 8, 5] z) => (float[2, 5, 8] y, float[2, 8, 5] u) {
        a = MatMul(x, w)
        b = Mul(a, gain)
        y = MatMul(b, w3)
        column = Reshape(gain, shape)
        u = Mul(z, column)
    }"""
    weights = {
        "w": normal(1, 8, 8), "w3": normal(2, 8, 8), "gain": normal(3, 8),
        "shape": np.array([8, 1]),
    }  # fmt: skip
    model = graph_from_text(text, weights)
    feeds = {"x": X, "z": normal(9, 2, 8, 5)}
    expected = run_plainly(model, feeds)
    permuted(model, "b")
    assert "gain_unpermuted" in model.graph.initializers
    for one, other in zip(run_plainly(model, feeds), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
