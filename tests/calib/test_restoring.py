"""Matmuls put back in float: the graph that quantizing the others alone would have given."""

from __future__ import annotations

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
from export.passes.simulate import Simulate
from tests.calib.test_smoothing import batches, block, outputs, parameters, placed
from trueint8.errors import ConfigError
from trueint8.progress import Silence

NAMES = ("q", "k", "v", "o", "fc1", "fc2")


def quantized(kept: tuple[str, ...], means: dict[str, ChannelMeans]) -> ir.Model:
    """Return the Q/DQ graph of all but ``kept``, with corrected biases where means are given."""
    params = parameters(block())
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


def measured_means() -> dict[str, ChannelMeans]:
    return channel_means(block(), parameters(block()), batches(), progress=Silence())


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("kept", [("q",), ("o", "fc1"), NAMES[:-1]])
def test_restoring_some_is_quantizing_the_others(kept: tuple[str, ...], corrected: bool) -> None:
    means = measured_means() if corrected else {}
    restored = quantized((), means)
    restore_float(restored, block(), kept)
    fresh = quantized(kept, means)
    assert [n.op_type for n in restored.graph].count("QuantizeLinear") == [
        n.op_type for n in fresh.graph
    ].count("QuantizeLinear")
    np.testing.assert_array_equal(simulated(restored), simulated(fresh))


def test_restoring_all_is_the_float_graph() -> None:
    model = quantized((), measured_means())
    restore_float(model, block(), NAMES)
    np.testing.assert_array_equal(outputs(model), outputs(block()))
    assert not {"QuantizeLinear", "DequantizeLinear"} & {n.op_type for n in model.graph}


def test_a_graph_of_another_form_is_refused() -> None:
    for name in ("q", "nothing"):
        with pytest.raises(ConfigError, match=f"matmul '{name}' is not quantized in the form"):
            restore_float(block(), block(), [name])
    other = block()
    assert placed(other).quantized
    other.graph.node("q").name = "renamed"
    with pytest.raises(ConfigError, match="'q' is not quantized in the form"):
        restore_float(quantized((), {}), other, ["q"])
