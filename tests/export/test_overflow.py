"""Values that leave FP16's range are named, and masks are not among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from export.onnx_file import save_model
from export.overflow import overflowing_values
from export.passes.to_half import ToHalf
from tests.export.attention_graphs import Block, exported
from tests.export.graphs import graph_from_text

TEXT = """
g (float[b, 4] x) => (float[b, 4] y) <float large = {60000.0}> {
    a = Mul(x, large)
    c = Div(a, large)
    y = Relu(c)
}
"""


def test_an_intermediate_value_is_found_where_the_output_is_fine(tmp_path: Path) -> None:
    model = graph_from_text(TEXT)
    ToHalf()(model)
    save_model(model, tmp_path / "half.onnx")
    for size, expected in ((1.0, []), (2.0, ["a"])):
        x = np.full((3, 4), size, np.float32)
        found = overflowing_values(tmp_path / "half.onnx", {"x": x}, scratch=tmp_path)
        assert found[:1] == expected, size


def test_masks_of_a_padded_batch_stay_within_range(tmp_path: Path) -> None:
    block = Block("normalized-clipped", heads=4)
    model = ir.from_proto(onnx.load_from_string(exported(block)))
    ToHalf()(model)
    save_model(model, tmp_path / "half.onnx")
    assert overflowing_values(tmp_path / "half.onnx", block.inputs(), scratch=tmp_path) == []
