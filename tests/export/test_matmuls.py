"""Matmuls with their weights, heads, costs and the output each one gives."""

from __future__ import annotations

import numpy as np
import pytest

from export.matmuls import find_matmuls, macs_from_shapes, vocabulary_size, weight_array
from tests.export.graphs import graph_from_text, normal

LANGUAGE_MODEL = """
lm (int64[b, t] input_ids) => (float[b, t, 32] logits) {
    e = Gather(table, input_ids)
    [body__dense] h = MatMul(e, w)
    [body__scores] s = MatMul(h, k)
    [transform__dense] u = MatMul(s, w2)
    tied = Transpose<perm=[1, 0]>(table)
    [decoder] d = MatMul(u, tied)
    logits = Add(d, bias)
}
"""
WEIGHTS = {
    "table": normal(0, 32, 8),
    "w": normal(1, 8, 8),
    "k": normal(2, 8, 8),
    "w2": normal(3, 8, 8),
    "bias": normal(4, 32),
}


def test_a_tied_head_is_found_behind_its_transpose() -> None:
    matmuls = find_matmuls(graph_from_text(LANGUAGE_MODEL, WEIGHTS), modules_named=False)
    assert [m.name for m in matmuls if m.is_head] == ["decoder"]
    head = matmuls[-1]
    assert (head.weight, head.weight_side, head.activation) == ("table", 1, "u")
    assert head.returns == "logits"
    assert [m.returns for m in matmuls[:-1]] == ["", "", ""]


def test_named_modules_outside_the_body_belong_to_the_head() -> None:
    matmuls = find_matmuls(graph_from_text(LANGUAGE_MODEL, WEIGHTS), modules_named=True)
    assert [m.name for m in matmuls if m.is_head] == ["transform.dense", "decoder"]


def test_a_classifier_as_wide_as_the_segment_table_is_no_head() -> None:
    text = """g (int64[b, t] input_ids, int64[b, t] token_type_ids) => (float[b, t, 2] logits) {
        words = Gather(table, input_ids)
        segments = Gather(segment_table, token_type_ids)
        e = Add(words, segments)
        [classifier] d = MatMul(e, w)
        logits = Add(d, bias)
    }"""
    weights = {
        "table": normal(0, 32, 8),
        "segment_table": normal(1, 2, 8),
        "w": normal(2, 8, 2),
        "bias": normal(3, 2),
    }
    (classifier,) = find_matmuls(graph_from_text(text, weights), modules_named=True)
    assert not classifier.is_head


def test_without_an_embedding_there_is_no_head() -> None:
    text = "g (float[2, 8] x) => (float[2, 8] y) { [a] y = MatMul(x, w) }"
    (matmul,) = find_matmuls(graph_from_text(text, {"w": normal(0, 8, 8)}), modules_named=True)
    assert not matmul.is_head
    assert matmul.returns == "y"


def test_the_weight_may_be_on_either_side_or_nowhere() -> None:
    text = """g (float[8, 8] x) => (float[8, 8] y) {
        [right] a = MatMul(x, w)
        [left] b = MatMul(w, a)
        [both] c = MatMul(w, w)
        [none] d = MatMul(b, a)
        y = Add(c, d)
    }"""
    found = {
        m.name: (m.weight, m.weight_side, m.activation)
        for m in find_matmuls(graph_from_text(text, {"w": normal(0, 8, 8)}), modules_named=False)
    }
    assert found == {
        "right": ("w", 1, "x"),
        "left": ("w", 0, "a"),
        "both": ("w", 1, "w"),
        "none": (None, 0, "a"),
    }


def test_the_weight_of_a_tied_head_is_transposed() -> None:
    model = graph_from_text(LANGUAGE_MODEL, WEIGHTS)
    operand = next(n for n in model.graph if n.name == "decoder").inputs[1]
    assert operand is not None
    np.testing.assert_array_equal(weight_array(operand), WEIGHTS["table"].T)


@pytest.mark.parametrize("text", ["t = Cast<to=7>(ids)  e = Gather(w, t)", "e = Gather(w, ids)"])
def test_the_vocabulary_is_the_embeddings_rows(text: str) -> None:
    model = graph_from_text(f"g (int32[b, t] ids) => (float[b, t, 4] e) {{ {text} }}",
                            {"w": normal(0, 17, 4)})  # fmt: skip
    assert vocabulary_size(model, "ids") == 17
    assert vocabulary_size(model, "other") is None


def test_macs_are_batch_rows_columns_and_depth() -> None:
    model = graph_from_text(LANGUAGE_MODEL, WEIGHTS)
    text = """g (float[2, 3, 5, 7] q, float[2, 3, 7, 4] k) => (float[2, 3, 5, 4] y) {
        [s] y = MatMul(q, k)
    }"""
    shapes = {name: (2, 5, 8) for name in ("e", "h", "s", "u")}
    assert macs_from_shapes(model, shapes) == {
        "body.dense": 2 * 5 * 8 * 8,
        "body.scores": 2 * 5 * 8 * 8,
        "transform.dense": 2 * 5 * 8 * 8,
        "decoder": 2 * 5 * 8 * 32,
    }
    attention = {"q": (2, 3, 5, 7), "k": (2, 3, 7, 4)}
    assert macs_from_shapes(graph_from_text(text), attention) == {"s": 2 * 3 * 5 * 7 * 4}
