"""Attention logits of few bits: found in every attention, rounded as NumPy rounds in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from export.checkpoint import Forward
from export.onnx_file import load_clean, model_bytes
from export.passes.round_logits import RoundLogits, attention_logits
from export.reference import open_reference
from export.torch_export import export_module
from tests.attention.test_families import V, model_of
from tests.export.graphs import Arrays, graph_from_text, normal, run_plainly
from trueint8.errors import ConfigError, ExportError

HIDDEN = -3.4028234663852886e38
MASKED = """
g (float[b, t, d] q, float[b, t, d] k, float[b, t, d] v, float[t, t] mask) => (float[b, t, d] y) {
    kt = Transpose<perm=[0, 2, 1]>(k)
    [scores] z0 = MatMul(q, kt)
    z = Mul(z0, scaling)
    m = Add(z, mask)
    p = Softmax<axis=-1>(m)
    y = MatMul(p, v)
}
"""
UNMASKED_BY_WHERE = MASKED.replace("float[t, t] mask", "bool[t, t] mask").replace(
    "Add(z, mask)", "Where(mask, z, hidden)"
)
DIFFERENCE = """
g (float[b, t, d] q, float[b, t, d] k, float[b, t, d] v) => (float[b, t, d] y) {
    kt = Transpose<perm=[0, 2, 1]>(k)
    z1 = MatMul(q, kt)
    z2 = MatMul(k, kt)
    p1 = Softmax<axis=-1>(z1)
    p2 = Softmax<axis=-1>(z2)
    p = Sub(p1, p2)
    y = MatMul(p, v)
}
"""
CONSTANTS = {"scaling": np.array(0.5, np.float32), "hidden": np.array(HIDDEN, np.float32)}
WIDTH, TOKENS = 8, 5


def inputs(seed: int = 0) -> dict[str, np.ndarray]:
    return {name: normal(seed + i, 2, TOKENS, WIDTH) for i, name in enumerate("qkv")}


def rounded(values: np.ndarray, bits: int) -> np.ndarray:
    step = np.abs(values).max() / (2 ** (bits - 1) - 1)
    return np.asarray(np.round(values / step) * step)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def in_float64(feeds: Arrays) -> list[np.ndarray]:
    return [feeds[name].astype(np.float64) for name in "qkv"]


def result(text: str, feeds: Arrays, bits: int) -> np.ndarray:
    model = graph_from_text(text, CONSTANTS)
    RoundLogits(bits)(model)
    return np.asarray(run_plainly(model, feeds)[0])


@pytest.mark.parametrize("bits", [2, 4, 6, 8, 16])
@pytest.mark.parametrize("text", [MASKED, UNMASKED_BY_WHERE], ids=["add", "where"])
def test_logits_are_rounded_before_the_mask(text: str, bits: int) -> None:
    seen = np.tril(np.ones((TOKENS, TOKENS), bool))
    feeds = inputs()
    q, k, v = in_float64(feeds)
    logits = rounded(q @ k.transpose(0, 2, 1) * 0.5, bits)
    expected = softmax(np.where(seen, logits, -np.inf)) @ v
    mask = np.where(seen, np.float32(0), np.float32(HIDDEN)) if text is MASKED else seen
    found = result(text, {**feeds, "mask": mask}, bits)
    np.testing.assert_allclose(found, expected, atol=1e-5 if bits < 16 else 2e-4)


def test_each_map_of_a_difference_has_its_own_scale() -> None:
    feeds = inputs(3)
    q, k, v = in_float64(feeds)
    kt = k.transpose(0, 2, 1)
    expected = (softmax(rounded(q @ kt, 4)) - softmax(rounded(k @ kt, 4))) @ v
    np.testing.assert_allclose(result(DIFFERENCE, feeds, 4), expected, atol=1e-5)


def test_the_scale_is_that_of_the_call() -> None:
    feeds = inputs()
    mask = np.zeros((TOKENS, TOKENS), np.float32)
    whole = result(MASKED, {**feeds, "mask": mask}, 3)
    alone = result(MASKED, {**{k: v[:1] for k, v in feeds.items()}, "mask": mask}, 3)
    louder = {**feeds, "q": feeds["q"] * np.array([1, 100], np.float32)[:, None, None]}
    assert not np.array_equal(result(MASKED, {**louder, "mask": mask}, 3)[:1], whole[:1])
    assert alone.shape == whole[:1].shape


def test_logits_that_are_all_zero_stay_so() -> None:
    feeds = {**inputs(), "mask": np.zeros((TOKENS, TOKENS), np.float32)}
    feeds["q"] = np.zeros_like(feeds["q"])
    expected = np.broadcast_to(feeds["v"].mean(axis=1, keepdims=True), feeds["v"].shape)
    np.testing.assert_allclose(result(MASKED, feeds, 8), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "variant", "count"),
    [("bert", None, 2), ("bert", "softmax1", 2), ("llama", "differential", 4), ("gpt2", None, 2)],
)
def test_every_attention_of_a_model_is_found(
    family: str, variant: str | None, count: int, tmp_path: Path
) -> None:
    ids = np.random.default_rng(1).integers(3, V, (2, 9))
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    path = tmp_path / "model.onnx"
    export_module(Forward(model_of(family, variant)).eval(), [batch], path)
    model = load_clean(path)
    assert len(attention_logits(model.graph)) == count
    outputs = {}
    for bits in (None, 16, 2):
        graph = load_clean(path)
        if bits is not None:
            RoundLogits(bits)(graph)
        with open_reference(model_bytes(graph)) as run:
            (outputs[bits],) = run(batch).values()
    errors = {b: np.abs(outputs[b] - outputs[None]).max() for b in (16, 2)}
    assert errors[16] < errors[2] and errors[16] < 1e-3


def test_what_cannot_be_rounded_is_refused() -> None:
    classifier = "g (float[b, 8] x) => (float[b, 8] y) { z = MatMul(x, w)\n y = Softmax(z) }"
    model: ir.Model = graph_from_text(classifier, {"w": normal(1, 8, 8)})
    with pytest.raises(ExportError, match="no attention"):
        RoundLogits(8)(model)
    for bits in (1, 17):
        with pytest.raises(ConfigError, match="out of range"):
            RoundLogits(bits)
