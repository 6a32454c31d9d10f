"""Every form of Q/DQ that quantizers write, in float arithmetic, beside ONNX Runtime's own run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from export.passes.simulate import Simulate
from export.passes.unsigned_activations import UnsignedActivations
from tests.export.graphs import graph_from_text, normal, operators, run_plainly
from trueint8.errors import ExportError

X = normal(9, 3, 5, 16)
INTEGERS = np.random.default_rng(0)
SCALES = INTEGERS.uniform(0.001, 0.02, 12).astype(np.float32)
SCALE = np.float32(0.011)


def _integers(kind: type[np.integer], *shape: int) -> np.ndarray:
    limits = np.iinfo(kind)
    return INTEGERS.integers(limits.min, limits.max, size=shape, endpoint=True).astype(kind)


ACTIVATION = """
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
"""
PLAIN = f"""m (float[b, t, 16] x) => (float[b, t, 12] y) {{{ACTIVATION}
    v = DequantizeLinear<axis=1>(w, sw, zw)
    [lin] y = MatMul(d, v)
}}"""
NEGATIVE_AXIS = PLAIN.replace("axis=1", "axis=-1")
FLOAT_WEIGHT = f"""m (float[b, t, 16] x) => (float[b, t, 12] y) {{{ACTIVATION}
    qw = QuantizeLinear<axis=1>(w, sw, zw)
    v = DequantizeLinear<axis=1>(qw, sw, zw)
    [lin] y = MatMul(d, v)
}}"""
BIAS = f"""m (float[b, t, 16] x) => (float[b, t, 12] y) {{{ACTIVATION}
    v = DequantizeLinear<axis=1>(w, sw)
    c = DequantizeLinear<axis=0>(bias, sw)
    [lin] u = MatMul(d, v)
    y = Add(u, c)
}}"""
OUTPUT = f"""m (float[b, t, 16] x) => (float[b, t, 12] y) {{{ACTIVATION}
    v = DequantizeLinear<axis=1>(w, sw)
    [lin] u = MatMul(d, v)
    qy = QuantizeLinear(u, sy, z)
    y = DequantizeLinear(qy, sy, z)
}}"""
NO_ZERO_POINT = """m (float[b, t, 16] x) => (float[b, t, 12] y) {
    q = QuantizeLinear<output_dtype=3>(x, s)
    d = DequantizeLinear(q, s)
    v = DequantizeLinear<axis=1>(w, sw)
    [lin] y = MatMul(d, v)
}"""
DEFAULT_TYPE = NO_ZERO_POINT.replace("<output_dtype=3>", "")
DYNAMIC = """m (float[b, t, 16] x) => (float[b, t, 12] y) {
    q, s1, z1 = DynamicQuantizeLinear(x)
    [lin] i = MatMulInteger(q, w, z1, zw)
    f = Cast<to=1>(i)
    k = Mul(s1, sw)
    y = Mul(f, k)
}"""
DYNAMIC_WITHOUT_ZERO = DYNAMIC.replace(", zw)", ")")

W8: dict[str, Any] = {"w": _integers(np.int8, 16, 12), "sw": SCALES}
FORMS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "uint8": (PLAIN, W8 | {"s": SCALE, "z": np.uint8(117), "zw": np.zeros(12, np.int8)}),
    "int8, zero point": (PLAIN, W8 | {"s": SCALE, "z": np.int8(-37), "zw": np.zeros(12, np.int8)}),
    "negative axis": (
        NEGATIVE_AXIS,
        W8 | {"s": SCALE, "z": np.int8(0), "zw": _integers(np.int8, 12)},
    ),
    "weight zero points": (
        PLAIN,
        {"w": _integers(np.uint8, 16, 12), "sw": SCALES, "zw": _integers(np.uint8, 12)}
        | {"s": SCALE, "z": np.uint8(128)},
    ),
    "per tensor, one element": (
        PLAIN,
        {"w": _integers(np.int8, 16, 12), "sw": SCALES[:1], "zw": np.array([3], np.int8)}
        | {"s": np.array([SCALE]), "z": np.array([5], np.int8)},
    ),
    "float weight": (
        FLOAT_WEIGHT,
        {"w": 0.5 * normal(1, 16, 12), "sw": SCALES, "zw": _integers(np.int8, 12)}
        | {"s": SCALE, "z": np.uint8(100)},
    ),
    "int32 bias": (
        BIAS,
        W8 | {"bias": _integers(np.int16, 12).astype(np.int32), "s": SCALE, "z": np.uint8(130)},
    ),
    "quantized output": (OUTPUT, W8 | {"s": SCALE, "sy": np.float32(0.3), "z": np.uint8(99)}),
    "no zero point": (NO_ZERO_POINT, W8 | {"s": SCALE}),
    "default type": (DEFAULT_TYPE, W8 | {"s": SCALE}),
    "dynamic": (DYNAMIC, W8 | {"zw": np.zeros(12, np.int8)}),
    "dynamic, unsigned weight": (
        DYNAMIC,
        {"w": _integers(np.uint8, 16, 12), "sw": SCALES, "zw": _integers(np.uint8, 12)},
    ),
    "dynamic without zero point": (DYNAMIC_WITHOUT_ZERO, W8),
}
INTEGER_OPERATORS = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
}


def _graph(form: str) -> ir.Model:
    text, arrays = FORMS[form]
    return graph_from_text(text, {k: np.asarray(a) for k, a in arrays.items()}, opset=21)


@pytest.mark.parametrize("form", FORMS)
def test_a_simulated_form_gives_what_onnx_runtime_gives(form: str) -> None:
    (expected,) = run_plainly(_graph(form), {"x": X})
    simulated = _graph(form)
    assert Simulate()(simulated).modified
    assert not INTEGER_OPERATORS & set(operators(simulated))
    assert {v.dtype for v in simulated.graph.initializers.values()} == {ir.DataType.FLOAT}
    assert [n.name for n in simulated.graph if n.op_type == "MatMul"] == ["lin"]
    (actual,) = run_plainly(simulated, {"x": X})
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("form", ["dynamic", "dynamic without zero point"])
def test_zeros_alone_are_quantized_dynamically_to_zeros(form: str) -> None:
    simulated = _graph(form)
    Simulate()(simulated)
    (actual,) = run_plainly(simulated, {"x": np.zeros_like(X)})
    assert not actual.any()


REFUSED: dict[str, tuple[str, Mapping[str, Any], str]] = {
    "int16": (
        NO_ZERO_POINT.replace("output_dtype=3", "output_dtype=5"),
        W8 | {"s": SCALE},
        "of INT16",
    ),
    "per-channel activation": (
        NO_ZERO_POINT.replace("<output_dtype=3>", "<axis=2>"),
        W8 | {"s": np.full(16, SCALE)},
        "one constant scale",
    ),
    "blocks": (
        NO_ZERO_POINT.replace("<axis=1>", "<axis=0, block_size=8>"),
        {"w": W8["w"], "sw": np.full((2, 12), SCALE), "s": SCALE},
        "scale per block",
    ),
    "other zero point": (
        PLAIN.replace("DequantizeLinear(q, s, z)", "DequantizeLinear(q, s, z2)"),
        W8 | {"s": SCALE, "z": np.int8(1), "z2": np.int8(2), "zw": np.zeros(12, np.int8)},
        "another zero point",
    ),
    "integers from elsewhere": (
        "m (int8[b, t, 16] x) => (float[b, t, 16] y) { y = DequantizeLinear(x, s) }",
        {"s": SCALE},
        "no QuantizeLinear",
    ),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_cannot_be_simulated_is_refused_by_name(form: str) -> None:
    text, arrays, said = REFUSED[form]
    model = graph_from_text(text, {k: np.asarray(a) for k, a in arrays.items()}, opset=21)
    with pytest.raises(ExportError, match=said):
        Simulate()(model)


@pytest.mark.parametrize("form", FORMS)
def test_unsigned_activations_change_nothing_but_int8(form: str) -> None:
    (expected,) = run_plainly(_graph(form), {"x": X})
    unsigned = _graph(form)
    int8 = form in ("int8, zero point", "negative axis", "per tensor, one element")
    weights = {n: v.const_value for n, v in unsigned.graph.initializers.items() if n in ("w", "zw")}
    assert UnsignedActivations()(unsigned).modified == int8
    assert {n: unsigned.graph.initializers[n].const_value for n in weights} == weights
    (actual,) = run_plainly(unsigned, {"x": X})
    assert actual.tobytes() == expected.tobytes()
