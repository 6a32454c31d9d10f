"""Matmuls put back in float: the graph that quantizing the others alone would have given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from calib.collector import ChannelMeans, channel_means
from calib.placement import Placement, place_qdq
from calib.qdq import insert_qdq
from calib.restoring import restore_float
from calib.smoothing import correct_biases
from calib.weights import WeightScheme
from export.matmuls import find_matmuls
from export.onnx_file import save_model
from export.passes.simulate import Simulate
from tests.calib.test_smoothing import batches, block, outputs, parameters, placed
from trueint8.errors import ConfigError
from trueint8.progress import Silence

NAMES = ("q", "k", "v", "o", "fc1", "fc2")


def quantized(folder: Path, kept: tuple[str, ...], means: dict[str, ChannelMeans]) -> ir.Model:
    """Return the Q/DQ graph of all but ``kept``, with corrected biases where means are given."""
    params = parameters(block(), folder)
    model = block()
    placement: Placement = place_qdq(
        find_matmuls(model, modules_named=False), quantize_head=True, keep_float=kept
    )
    if means:
        correct_biases(model, placement.quantized, means, WeightScheme())
    insert_qdq(model, placement, params)
    return model


def simulated(model: ir.Model) -> np.ndarray:
    Simulate()(model)
    return outputs(model)


def measured_means(folder: Path) -> dict[str, ChannelMeans]:
    path = folder / "float.onnx"
    save_model(block(), path)
    params = parameters(block(), folder)
    return channel_means(path, params, batches(), scratch=folder, progress=Silence())


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("kept", [("q",), ("o", "fc1"), NAMES[:-1]])
def test_restoring_some_is_quantizing_the_others(
    kept: tuple[str, ...], corrected: bool, tmp_path: Path
) -> None:
    means = measured_means(tmp_path) if corrected else {}
    restored = quantized(tmp_path, (), means)
    restore_float(restored, block(), kept)
    fresh = quantized(tmp_path, kept, means)
    assert [n.op_type for n in restored.graph].count("QuantizeLinear") == [
        n.op_type for n in fresh.graph
    ].count("QuantizeLinear")
    np.testing.assert_array_equal(simulated(restored), simulated(fresh))


def test_restoring_all_is_the_float_graph(tmp_path: Path) -> None:
    model = quantized(tmp_path, (), measured_means(tmp_path))
    restore_float(model, block(), NAMES)
    np.testing.assert_array_equal(outputs(model), outputs(block()))
    assert not {"QuantizeLinear", "DequantizeLinear"} & {n.op_type for n in model.graph}


def test_a_graph_of_another_form_is_refused(tmp_path: Path) -> None:
    for name in ("q", "nothing"):
        with pytest.raises(ConfigError, match=f"matmul '{name}' is not quantized in the form"):
            restore_float(block(), block(), [name])
    other = block()
    assert placed(other).quantized
    other.graph.node("q").name = "renamed"
    with pytest.raises(ConfigError, match="'q' is not quantized in the form"):
        restore_float(quantized(tmp_path, (), {}), other, ["q"])
