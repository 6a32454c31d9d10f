"""Decisions about attentions, their Q/DQ, and the ranges of their operands."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from calib.collector import observe
from calib.placement import (
    CHOSEN_REASON,
    CLIPPED_REASON,
    HEAD_REASON,
    SHARED_REASON,
    SINGLE_REASON,
    UNFUSED_REASON,
    Extent,
    Mode,
    Placement,
    Rules,
    judge_attentions,
    place_qdq,
)
from calib.qdq import PROBABILITIES, insert_qdq
from calib.schemes import Range, params_of_range
from export.attentions import Attention, find_attentions
from export.matmuls import find_matmuls
from tests.export.graphs import graph_from_text, normal, operators, run_plainly
from trueint8.errors import ConfigError
from trueint8.progress import Silence

RULES = Rules(head_widths=(16, 32, 64), clipped_widths=(64,), longest=512, rest="fp16")
EXTENT = Extent({}, 128, static=False)
FUSED = Attention("s", "p", "q", "k", "w", "v", ("o",), clipped=False, shared=False)
CLIPPED = Attention("s", "p", "q", "k", "w", "v", ("o",), clipped=True, shared=False)
SHARED = Attention("s", "p", "q", "k", "w", "v", ("o",), clipped=False, shared=True)
SIGNED = Attention("s", "p", "q", "k", "w", "v", ("o",), False, False, obstacle="signed")
WIDTHS = "16, 32, 64"


def _extent(
    width: int, *, value: int = 0, tokens: int = 128, longest: int = 0, static: bool = False
) -> Extent:
    shapes = {
        "q": (1, 4, tokens, width),
        "k": (1, 4, width, tokens),
        "v": (1, 4, tokens, value or width),
    }
    return Extent(shapes, longest, static)


@pytest.mark.parametrize(
    ("attention", "extent", "mode", "reason"),
    [
        (FUSED, _extent(64), "auto", ""),
        (FUSED, _extent(64), "float", CHOSEN_REASON),
        (FUSED, _extent(40), "int8", ""),
        (SIGNED, _extent(64), "int8", "signed"),
        (SIGNED, _extent(64), "float", CHOSEN_REASON),
        (FUSED, _extent(32, value=64), "auto", ""),
        (
            FUSED,
            _extent(64, value=128),
            "auto",
            f"INT8 attention is fused for heads of {WIDTHS}; these are 128 wide",
        ),
        (
            FUSED,
            _extent(40),
            "auto",
            f"INT8 attention is fused for heads of {WIDTHS}; these are 40 wide",
        ),
        (FUSED, _extent(64, longest=512), "auto", ""),
        (
            FUSED,
            _extent(64, longest=513),
            "auto",
            "INT8 attention is fused up to 512 tokens; here are 513",
        ),
        (
            FUSED,
            _extent(64, tokens=577),
            "auto",
            "INT8 attention is fused up to 512 tokens; here are 577",
        ),
        (SHARED, _extent(64), "auto", SHARED_REASON),
        (SHARED, _extent(64), "int8", ""),
        (CLIPPED, _extent(64), "auto", CLIPPED_REASON),
        (CLIPPED, _extent(64, static=True), "auto", ""),
        (
            CLIPPED,
            _extent(32, static=True),
            "auto",
            "INT8 attention is fused for heads of 64; these are 32 wide",
        ),
    ],
)
def test_an_attention_is_int8_where_the_engine_fuses_it(
    attention: Attention, extent: Extent, mode: Mode, reason: str
) -> None:
    assert judge_attentions([attention], RULES, extent, mode) == {attention: reason}


def test_an_engine_that_fuses_none_keeps_float_unless_told() -> None:
    assert judge_attentions([FUSED], Rules(), _extent(64)) == {FUSED: UNFUSED_REASON}
    assert judge_attentions([FUSED], Rules(), _extent(64), "int8") == {FUSED: ""}


def test_a_single_head_is_not_fused() -> None:
    shapes = {"q": (1, 1, 128, 64), "k": (1, 1, 64, 128), "v": (1, 1, 128, 64)}
    judged = judge_attentions([FUSED], RULES, Extent(shapes, 0, static=False))
    assert judged == {FUSED: SINGLE_REASON}


TEXT = """
layer (float[b, t, 8] x) => (float[b, t, 6] y) {
    [self__query] q = MatMul(x, wq)
    [self__key] k = MatMul(x, wk)
    [self__value] v = MatMul(x, wv)
    q4 = Reshape(q, heads)
    k4 = Reshape(k, heads)
    v4 = Reshape(v, heads)
    qt = Transpose<perm=[0, 2, 1, 3]>(q4)
    kt = Transpose<perm=[0, 2, 3, 1]>(k4)
    vt = Transpose<perm=[0, 2, 1, 3]>(v4)
    [self__matmul] s = MatMul(qt, kt)
    p = Softmax(s)
    [self__matmul_1] a = MatMul(p, vt)
    GATE
    at = Transpose<perm=[0, 2, 1, 3]>(gated)
    ar = Reshape(at, whole)
    [output__dense] y = MatMul(ar, wo)
}
"""
PLAIN = TEXT.replace("GATE", "gated = Identity(a)")
GATED = TEXT.replace("GATE", "gated = Mul(a, half)")
WEIGHTS = {
    "wq": normal(0, 8, 8),
    "wk": normal(1, 8, 8),
    "wv": normal(2, 8, 8),
    "wo": normal(3, 8, 6),
    "half": np.full((2, 1, 1), 0.5, np.float32),
    "heads": np.array([0, 0, 2, 4]),
    "whole": np.array([0, 0, 8]),
}
X = normal(5, 2, 3, 8)


def _graph(text: str) -> ir.Model:
    return graph_from_text(text, {k: v for k, v in WEIGHTS.items() if k in text})


def _place(model: ir.Model, **more: tuple[str, ...]) -> Placement:
    judged = judge_attentions(find_attentions(model), RULES, EXTENT, "int8")
    matmuls = find_matmuls(model, modules_named=False)
    return place_qdq(matmuls, quantize_head=True, attentions=judged, **more)


def test_operands_are_calibrated_and_weights_have_their_scale() -> None:
    placement = _place(_graph(PLAIN))
    assert placement.tensors == ["x", "ar", "qt", "kt", "vt"]
    assert placement.outputs == [], "the projection's Q/DQ serves the attention"
    assert all(s.quantized for s in placement.sites)
    assert [m.name for m in placement.quantized] == [
        "self.query",
        "self.key",
        "self.value",
        "output.dense",
    ]


def test_a_gate_or_a_float_projection_gets_qdq_before_it() -> None:
    assert _place(_graph(GATED)).outputs == ["a"]
    assert _place(_graph(PLAIN), keep_float=("output.dense",)).outputs == ["a"]


@pytest.mark.parametrize(
    ("options", "quantized", "reason"),
    [
        ({"keep_float": ("self.matmul",)}, False, "kept in float by --keep-float self.matmul"),
        ({"keep_float": ("*.value",)}, True, ""),
        ({"int8_only": ("*.dense",)}, False, "outside --int8-only *.dense"),
        ({"int8_only": ("*matmul_1", "*.dense")}, True, ""),
    ],
)
def test_patterns_name_the_matmuls_of_an_attention(
    options: dict[str, tuple[str, ...]], quantized: bool, reason: str
) -> None:
    placement = _place(_graph(PLAIN), **options)
    assert bool(placement.attentions) == quantized
    reasons = {s.reason for s in placement.sites if s.matmul.weight is None}
    assert reasons == {reason}


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="no matmul that can be quantized matches 'self.mat'"):
        _place(_graph(PLAIN), keep_float=("self.mat",))
    assert HEAD_REASON not in {s.reason for s in _place(_graph(PLAIN)).sites}


def _fake(values: np.ndarray, scale: float) -> np.ndarray:
    return np.asarray(np.clip(np.rint(values.astype(np.float64) / scale), -128, 127) * scale)


def _fake_weight(name: str) -> np.ndarray:
    scale = (np.abs(WEIGHTS[name]).max(axis=0) / np.float64(127)).astype(np.float32)
    return np.asarray(np.rint(WEIGHTS[name] / scale.astype(np.float64)) * scale)


@pytest.mark.parametrize("gated", [False, True])
def test_an_attention_computes_what_numpy_computes(gated: bool) -> None:
    model = _graph(GATED if gated else PLAIN)
    placement = _place(model)
    amax = {"x": 3.0, "qt": 6.0, "kt": 5.0, "vt": 4.0, "a": 4.0, "ar": 3.5}
    ranges = {t: params_of_range(t, Range(-amax[t], amax[t])) for t in placement.tensors}
    insert_qdq(model, placement, ranges)
    assert operators(model).count("QuantizeLinear") == 6 + gated
    (actual,) = run_plainly(model, {"x": X})
    scales = {t: float(np.float32(v / 127)) for t, v in amax.items()}
    x = _fake(X, scales["x"])
    q, k, v = ((x @ _fake_weight(n)).reshape(2, 3, 2, 4).transpose(0, 2, 1, 3)
               for n in ("wq", "wk", "wv"))  # fmt: skip
    scores = _fake(q, scales["qt"]) @ _fake(k, scales["kt"]).transpose(0, 1, 3, 2)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p = _fake(p / p.sum(-1, keepdims=True), float(PROBABILITIES.scale))
    a = p @ _fake(v, scales["vt"])
    a = _fake(a, scales["a"]) * 0.5 if gated else a
    flat = _fake(a.transpose(0, 2, 1, 3).reshape(2, 3, 8), scales["ar"])
    expected = flat @ _fake_weight("wo")
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-4 * np.abs(expected).max())


PADDED = """
padded (float[b, t, 8] x, int64[b, t] attention_mask) => (float[b, t, 6] y) {
"""


@pytest.mark.parametrize("tokens", [3, 4, 2])
def test_padding_stays_out_of_the_ranges_along_the_axis_of_tokens(
    tokens: int,
) -> None:
    """With 4 tokens the mask also fits heads of width 4, with 2 the heads themselves."""
    model = graph_from_text(PADDED + PLAIN.split("{", 1)[1], _used(PLAIN))
    mask = np.ones((2, tokens), np.int64)
    mask[1, 1:] = 0
    x = normal(7, 2, tokens, 8)
    x[mask == 0] *= 1000
    placement = _place(model)
    axes = placement.token_axes
    assert axes == {"qt": -2, "kt": -1, "vt": -2, "a": -2}
    batches = [{"x": x, "attention_mask": mask}]
    seen = observe(
        model,
        ["qt", "kt", "vt"],
        batches,
        progress=Silence(),
        token_axes=axes,
    ).stats
    for name, weight in (("qt", "wq"), ("kt", "wk"), ("vt", "wv")):
        real = x[mask == 1] @ WEIGHTS[weight]
        assert seen[name].count == real.size
        np.testing.assert_allclose(seen[name].absmax, np.abs(real).max(), rtol=1e-5)


def _used(text: str) -> dict[str, np.ndarray]:
    return {k: v for k, v in WEIGHTS.items() if k in text}
