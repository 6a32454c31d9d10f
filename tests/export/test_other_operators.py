"""Multiply-accumulates that are not matmuls, counted against brute force."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from export.other_operators import counted_operators, operator_macs, uncounted_operators


def parsed(text: str) -> ir.Model:
    head = '<ir_version: 10, opset_import: ["" : 20]> '
    return ir.from_proto(onnx.parser.parse_model(head + text))


def test_a_convolution_counts_kernel_times_output() -> None:
    model = parsed(
        "g (float[2, 4, 8, 8] x, float[6, 2, 3, 3] w) => (float[2, 6, 6, 6] y) "
        "{ y = Conv <group = 2> (x, w) }"
    )
    (node,) = counted_operators(model)
    assert node.name == "Conv_0"
    shapes = {"x": (2, 4, 8, 8), "w": (6, 2, 3, 3), "y": (2, 6, 6, 6)}
    # every output element is a sum over 2 channels of 3 x 3 products
    assert operator_macs(node, shapes) == int(np.prod(shapes["y"])) * 2 * 3 * 3


def test_a_gemm_counts_its_contraction() -> None:
    model = parsed(
        "g (float[5, 3] a, float[5, 7] b) => (float[3, 7] y) { y = Gemm <transA = 1> (a, b) }"
    )
    (node,) = counted_operators(model)
    assert operator_macs(node, {"a": (5, 3), "b": (5, 7), "y": (3, 7)}) == 3 * 5 * 7


def test_what_cannot_be_counted_is_named() -> None:
    model = parsed(
        "g (bool c, float[4, 4] x) => (float[4, 4] y) {"
        ' e = Einsum <equation = "ij,jk->ik"> (x, x)'
        " y = If (c) <then_branch = t () => (float[4, 4] a) { a = MatMul(e, x) },"
        " else_branch = f () => (float[4, 4] b) { b = Identity(e) }> }"
    )
    assert uncounted_operators(model) == {"Einsum": 1, "MatMul": 1}
    assert counted_operators(model) == []
