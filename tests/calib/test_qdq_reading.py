"""How graphs from anywhere are read: which operand carries Q/DQ, and of what kind."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from calib.qdq_reading import Reading, read_qdq
from export.passes.drop_qdq import DropQdq
from export.passes.name_products import NameProducts
from export.products import product_macs, products
from tests.export.graphs import graph_from_text, operators, run_plainly

HEAD = "g (float[b, t, 8] x) => (float[b, t, 8] y) {"
PAIR = """
    xq = QuantizeLinear<axis={axis}>(x, {s}{z})
    xd = DequantizeLinear<axis={axis}>(xq, {s}{z})
"""
CONSTANTS: dict[str, np.ndarray] = {
    "s": np.asarray(0.1, np.float32),
    "z": np.asarray(0, np.int8),
    "z3": np.asarray(3, np.int8),
    "u": np.asarray(0, np.uint8),
    "s8": np.linspace(0.1, 0.2, 8, dtype=np.float32),
    "z8": np.zeros(8, np.int8),
    "w": np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8),
    "wq": np.arange(-32, 32, dtype=np.int8).reshape(8, 8),
    "blocks": np.full((2, 8), 0.1, np.float32),
    "bias": np.ones(8, np.float32),
    "bq": np.ones(8, np.int32),
}


def read(body: str, *, head: str = HEAD, opset: int = 21) -> Reading:
    """Return the only reading of a graph."""
    text = f"{head}{body}}}"
    used = {k: v for k, v in CONSTANTS.items() if k in text.replace("(", " ").replace(",", " ")}
    model = graph_from_text(text, used, opset=opset)
    NameProducts()(model)
    (found,) = read_qdq(model)
    return found


def pair(scale: str = "s", zero: str = "z", axis: int = 1) -> str:
    """Return Q/DQ of x as ``xd``."""
    return PAIR.format(axis=axis, s=scale, z=f", {zero}" if zero else "")


WEIGHT = "wd = DequantizeLinear<axis=1>(wq, s8, z8)\n"


@pytest.mark.parametrize(
    ("body", "text", "extent"),
    [
        ("y = MatMul(x, w)", "activation float; weight float", "none"),
        (
            pair() + WEIGHT + "y = MatMul(xd, wd)",
            "activation int8 per tensor; weight int8 per channel",
            "both",
        ),
        (
            pair(zero="z3") + WEIGHT + "y = MatMul(xd, wd)",
            "activation int8 per tensor, zero point not 0; weight int8 per channel",
            "both",
        ),
        (
            pair(zero="") + WEIGHT + "y = MatMul(xd, wd)",
            "activation uint8 per tensor; weight int8 per channel",
            "both",
        ),
        (
            pair("s8", "z8", axis=2) + WEIGHT + "y = MatMul(xd, wd)",
            "activation int8 per channel along the sum; weight int8 per channel",
            "both",
        ),
        (
            pair("s8", "z8", axis=-1) + WEIGHT + "y = MatMul(xd, wd)",
            "activation int8 per channel along the sum; weight int8 per channel",
            "both",
        ),
        (
            pair() + "wd = DequantizeLinear<axis=0>(wq, s8, z8) y = MatMul(xd, wd)",
            "activation int8 per tensor; weight int8 per channel along the sum",
            "both",
        ),
        (
            pair() + "wd = DequantizeLinear<axis=0, block_size=4>(wq, blocks) y = MatMul(xd, wd)",
            "activation int8 per tensor; weight int8 per block",
            "both",
        ),
        (
            pair()
            + "wq_ = QuantizeLinear<axis=1>(w, s8, z8)"
            + "wd = DequantizeLinear<axis=1>(wq_, s8, z8) y = MatMul(xd, wd)",
            "activation int8 per tensor; weight int8 per channel",
            "both",
        ),
        (pair() + "y = MatMul(xd, w)", "activation int8 per tensor; weight float", "partly"),
        (WEIGHT + "y = MatMul(x, wd)", "activation float; weight int8 per channel", "partly"),
        (
            "m = MatMul(x, w) q = QuantizeLinear(m, s, z) y = DequantizeLinear(q, s, z)",
            "activation float; weight float; output int8 per tensor",
            "partly",
        ),
        (
            "m = MatMul(x, w) a = Add(m, bias)"
            "q = QuantizeLinear(a, s, z) y = DequantizeLinear(q, s, z)",
            "activation float; weight float; output int8 per tensor",
            "partly",
        ),
        (
            pair()
            + WEIGHT
            + "m = MatMul(xd, wd) bd = DequantizeLinear<axis=0>(bq, s8) y = Add(m, bd)",
            "activation int8 per tensor; weight int8 per channel; bias int32",
            "both",
        ),
        (
            pair() + WEIGHT + "wt = Transpose<perm=[0, 1]>(wd) y = MatMul(xd, wt)",
            "activation int8 per tensor; weight int8 per channel",
            "both",
        ),
    ],
)
def test_a_matmul(body: str, text: str, extent: str) -> None:
    found = read(body)
    assert (str(found), found.extent, found.kind) == (text, extent, "matmul")
    assert found.weighted


def test_the_axis_of_a_transposed_weight() -> None:
    head = "g (float[n, 8] x) => (float[n, 8] y) {"
    for axis, along in ((0, ""), (1, " along the sum")):
        body = f"""
            {pair()} wd = DequantizeLinear<axis={axis}>(wq, s8, z8)
            bd = DequantizeLinear<axis=0>(bq, s8)
            y = Gemm<transB=1>(xd, wd, bd)
        """
        found = read(body, head=head)
        assert (
            str(found) == f"activation int8 per tensor; weight int8 per channel{along}; bias int32"
        )
        assert found.operator == "Gemm"


def test_a_convolution_sums_over_all_but_the_first_axis_of_its_weight() -> None:
    head = "g (float[n, 4, 6, 6] x) => (float[n, 2, 4, 4] y) {"
    weights: dict[str, np.ndarray] = {
        "k": np.ones((2, 4, 3, 3), np.int8),
        "k2": np.full(2, 0.1, np.float32),
        "s": CONSTANTS["s"],
        "z": CONSTANTS["z"],
    }
    body = "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)"
    body += "kd = DequantizeLinear<axis=0>(k, k2) y = Conv(xd, kd)"
    model = graph_from_text(f"{head}{body}}}", weights)
    NameProducts()(model)
    (found,) = read_qdq(model)
    assert found.kind == "convolution"
    assert str(found) == "activation int8 per tensor; weight int8 per channel"
    (node,) = products(model)
    shapes = {"xd": (5, 4, 6, 6), "kd": (2, 4, 3, 3), "y": (5, 2, 4, 4)}
    assert product_macs(node, shapes) == 5 * 2 * 4 * 4 * 4 * 3 * 3


def test_qdq_that_only_the_next_product_reads_is_that_ones() -> None:
    text = """g (float[b, 2, t, 8] x) => (float[b, t, 2, 8] y) {
        [one] m = MatMul(x, x2)
        t1 = Transpose<perm=[0, 2, 1, 3]>(m)
        q = QuantizeLinear(t1, s, z)
        d = DequantizeLinear(q, s, z)
        [two] y = MatMul(d, w)
    }"""
    text = text.replace("(float[b, 2, t, 8] x)", "(float[b, 2, t, 4] x, float[b, 2, 4, 8] x2)")
    model = graph_from_text(text, {k: CONSTANTS[k] for k in ("s", "z", "w")})
    one, two = read_qdq(model)
    assert (one.name, one.extent, one.output) == ("one", "none", None)
    assert (two.name, str(two)) == ("two", "activation int8 per tensor; weight float")


def test_integer_operators_take_integers() -> None:
    text = "g (int8[b, t, 8] x) => (int32[b, t, 8] y) { y = MatMulInteger(x, wq) }"
    model = graph_from_text(text, {"wq": CONSTANTS["wq"]})
    NameProducts()(model)
    (found,) = read_qdq(model)
    assert (found.operator, found.extent) == ("MatMulInteger", "both")


@pytest.mark.parametrize(
    ("inputs", "attributes", "shapes", "macs"),
    [
        ((2, 3, 5, 8), {}, {"q": (2, 3, 5, 8), "k": (2, 3, 7, 8), "v": (2, 3, 7, 4)}, 12),
        (
            (2, 5, 24),
            {"q_num_heads": 3, "kv_num_heads": 3},
            {"q": (2, 5, 24), "k": (2, 7, 24), "v": (2, 7, 12)},
            12,
        ),
    ],
)
def test_what_an_attention_costs(
    inputs: tuple[int, ...],
    attributes: dict[str, int],
    shapes: dict[str, tuple[int, ...]],
    macs: int,
) -> None:
    q, k, v = (ir.Value(name=n) for n in "qkv")
    node = ir.node("Attention", [q, k, v], attributes=attributes)
    node.outputs[0].name = "y"
    assert product_macs(node, {**shapes, "y": inputs}) == 2 * 3 * 5 * 7 * macs


def test_dropping_qdq_leaves_the_float_graph() -> None:
    text = f"{HEAD}{pair()}{WEIGHT} m = MatMul(xd, wd) q = QuantizeLinear(m, s, z)"
    text += " y = DequantizeLinear(q, s, z)}"
    used = {k: CONSTANTS[k] for k in ("s", "z", "wq", "s8", "z8")}
    model = graph_from_text(text, used)
    DropQdq()(model)
    assert operators(model) == ["DequantizeLinear", "MatMul", "Identity"]
    assert [v.name for v in model.graph.outputs] == ["y"]
    x = np.linspace(-1, 1, 48, dtype=np.float32).reshape(2, 3, 8)
    expected = x @ (CONSTANTS["wq"] * CONSTANTS["s8"])
    np.testing.assert_allclose(run_plainly(model, {"x": x})[0], expected, rtol=1e-5, atol=1e-5)


def test_names_are_unique_and_say_what_belongs_together() -> None:
    text = f"""{HEAD}
        [same] a = MatMul(x, w)
        b = Add(a, bias)
        [same] c = MatMul(b, w2)
        {pair().replace("(x,", "(c,")}
        y = MatMul(xd, w3)
    }}"""
    weights = {**CONSTANTS, "w2": CONSTANTS["w"], "w3": CONSTANTS["w"]}
    used = {k: weights[k] for k in ("w", "w2", "w3", "bias", "s", "z")}
    model = graph_from_text(text, used)
    NameProducts()(model)
    names = [node.name for node in model.graph]
    assert names == ["same", "same/add", "1.same", "c/QuantizeLinear",
                     "xq/DequantizeLinear", "MatMul.2"]  # fmt: skip
    weights_now = {n for n in model.graph.initializers if n.endswith(".weight")}
    assert weights_now == {"same.weight", "1.same.weight", "MatMul.2.weight"}
