"""Queries and keys padded to the width of the values: the same function."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calib.collector import operand_shapes
from calib.placement import judge_attentions, place_qdq
from calib.qdq import insert_qdq
from calib.schemes import Range, params_of_range
from export.attentions import find_attentions
from export.matmuls import find_matmuls
from export.passes.pad_heads import PadHeads
from tests.calib.test_placement import EXTENT, RULES
from tests.export.attention_graphs import Block, exported
from tests.export.graphs import operators, run_plainly

BLOCK = Block("differential", heads=4)


@pytest.mark.parametrize("quantized", [False, True])
def test_differential_attention_computes_the_same_bits(quantized: bool) -> None:
    model = ir.from_proto(onnx.load_from_string(exported(BLOCK)))
    shapes = operand_shapes(model, BLOCK.inputs())
    if quantized:
        judged = judge_attentions(find_attentions(model), RULES, EXTENT, "int8")
        matmuls = find_matmuls(model, modules_named=True)
        placement = place_qdq(matmuls, quantize_head=True, attentions=judged)
        params = {t: params_of_range(t, Range(-3, 3)) for t in placement.tensors}
        insert_qdq(model, placement, params)
    (expected,) = run_plainly(model, BLOCK.inputs())
    assert PadHeads(shapes)(model).modified
    assert operators(model).count("Pad") == 4
    pads = [n for n in model.graph if n.op_type == "Pad"]
    above = "QuantizeLinear" if quantized else "MatMul"
    assert {user.op_type for n in pads for user, _ in n.outputs[0].uses()} == {above}
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    (actual,) = run_plainly(model, BLOCK.inputs())
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_equal_widths_are_left_alone() -> None:
    block = Block("differential-v2")
    model = ir.from_proto(onnx.load_from_string(exported(block)))
    shapes = operand_shapes(model, block.inputs())
    assert not PadHeads(shapes)(model).modified
    assert "Pad" not in operators(model)
