"""Attentions found in the graphs of every variant, and in none that is not one."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from attention.variants import VARIANTS
from export.attentions import UNBOUNDED, find_attentions, static_shapes
from export.matmuls import find_matmuls
from tests.export.attention_graphs import Block, exported
from tests.export.graphs import graph_from_text

HEADS = """
heads (float[b, 2, t, 8] q, float[b, 2, t, 8] k, float[b, 2, t, 8] v, float[b, 1, 1, t] mask)
=> (float[b, 2, t, 8] o) <float zero = {{0.0}}, float one = {{1.0}}, float two = {{2.0}}> {{
    kt = Transpose<perm=[0, 1, 3, 2]>(k)
    [scores] s = MatMul(q, kt)
    m = Add(s, mask)
    p = Softmax<axis=-1>(m)
    {behind}
    [product] o = MatMul(w, v)
}}
"""


def _graph(block: Block) -> ir.Model:
    return ir.from_proto(onnx.load_from_string(exported(block)))


@pytest.mark.parametrize(
    ("variant", "decoder"),
    [*((name, False) for name in VARIANTS.names()), ("vanilla", True), ("differential", True)],
)
def test_every_product_of_activations_of_every_variant_is_found(
    variant: str, decoder: bool
) -> None:
    model = _graph(Block(variant, heads=4, decoder=decoder))
    loose = {m.name for m in find_matmuls(model, modules_named=True) if m.weight is None}
    found = find_attentions(model)
    assert {name for a in found for name in a.matmuls} == loose
    assert len(found) == (2 if variant.startswith("differential") else 1)
    assert {a.obstacle for a in found} == {""}
    assert {a.clipped for a in found} == {"clipped" in variant}
    assert {a.shared for a in found} == {variant in ("softmax1", "learned-sink")}


def test_the_output_is_followed_until_something_changes_it() -> None:
    vanilla, gated = (_graph(Block(v)) for v in ("vanilla", "gated-linear"))
    (attention,) = find_attentions(vanilla)
    projected = next(m for m in find_matmuls(vanilla, modules_named=True) if "output" in m.name)
    assert attention.outputs[-1] == projected.activation
    (attention,) = find_attentions(gated)
    assert len(attention.outputs) == 1


@pytest.mark.parametrize(
    ("behind", "obstacle"),
    [
        ("w = Identity(p)", ""),
        ("w = Clip(p, zero, one)", ""),
        ("w = Mul(p, p)", ""),
        ("g = Sigmoid(m)\n w = Mul(p, g)", ""),
        ("w = Clip(p, zero, two)", UNBOUNDED),
        ("w = Clip(p)", UNBOUNDED),
        ("w = Add(p, one)", UNBOUNDED),
        ("w = Mul(p, two)", UNBOUNDED),
        ("w = Neg(p)", UNBOUNDED),
    ],
)
def test_weights_are_quantized_only_where_they_lie_between_zero_and_one(
    behind: str, obstacle: str
) -> None:
    (found,) = find_attentions(graph_from_text(HEADS.format(behind=behind)))
    assert found.obstacle == obstacle
    assert (found.scores, found.product) == ("scores", "product")
    assert (found.query, found.key, found.value) == ("q", "kt", "v")


def test_a_product_without_softmax_is_no_attention() -> None:
    text = HEADS.format(behind="w = Identity(m)").replace("p = Softmax<axis=-1>(m)", "")
    assert find_attentions(graph_from_text(text)) == []


def test_static_shapes_are_told_from_dynamic_ones() -> None:
    assert static_shapes(_graph(Block("vanilla", static=True)))
    assert not static_shapes(_graph(Block("vanilla")))
