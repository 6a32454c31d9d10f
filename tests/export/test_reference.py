"""The float reference computes what NumPy computes in float64, and names what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from export import onnx_file
from export.onnx_file import save_model, split_weights
from export.reference import open_reference
from tests.export.graphs import normal, proto_from_text
from trueint8.errors import ExportError, RunError

TEXT = """
two (float[batch, 16] x) => (float[batch, 4] y) {
    h = MatMul(x, w0)
    g = Relu(h)
    m = MatMul(g, w1)
    y = Add(m, b)
}
"""
WEIGHTS = {"w0": normal(0, 16, 64), "w1": normal(1, 64, 4), "b": normal(2, 4)}
X = normal(3, 2, 16)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(proto_from_text(TEXT, WEIGHTS).SerializeToString())
    return path


def test_the_reference_runs_and_picks_outputs(graph: Path) -> None:
    with open_reference(graph) as run:
        found = run({"x": X, "not an input": X})
    assert list(found) == ["y"]
    wide = {k: v.astype(np.float64) for k, v in WEIGHTS.items()}
    expected = np.maximum(X @ wide["w0"], 0) @ wide["w1"] + wide["b"]
    np.testing.assert_allclose(found["y"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beside", [False, True], ids=["inside", "beside"])
def test_a_graph_in_memory_lends_its_weights(
    graph: Path, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    """Also where they are mapped from the file beside it."""
    with open_reference(graph) as run:
        expected = run({"x": X})
    model = ir.load(graph)
    if beside:
        monkeypatch.setattr(onnx_file, "EXTERNAL_ABOVE_BYTES", 0)
        save_model(model, graph.with_name("big.onnx"))
        model = ir.load(graph.with_name("big.onnx"))
    data, weights = split_weights(model)
    assert len(data) < WEIGHTS["w0"].nbytes
    assert weights.keys() == {"w0", "w1"}
    np.testing.assert_array_equal(weights["w0"], WEIGHTS["w0"])
    with open_reference(model) as run:
        found = run({"x": X})
    np.testing.assert_array_equal(found["y"], expected["y"])
    tensor = model.graph.initializers["w0"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), WEIGHTS["w0"])


def test_outputs_outlive_the_session_and_the_next_run(graph: Path) -> None:
    with open_reference(graph) as run:
        first = run({"x": X})["y"]
        copy = first.copy()
        second = run({"x": X + 1})["y"]
    del run
    np.testing.assert_array_equal(first, copy)
    assert not np.array_equal(second, copy)


def test_the_reference_names_what_is_wrong(graph: Path) -> None:
    broken = proto_from_text("g (float[2, 4] x) => (float[2, 4] y) { y = Unheard(x) }")
    with (
        pytest.raises(ExportError, match="ONNX Runtime cannot load the graph"),
        open_reference(broken.SerializeToString()),
    ):
        pass
    with (
        open_reference(graph, threads=1) as run,
        pytest.raises(RunError, match="cannot run on this data"),
    ):
        run({"x": X[:, :3]})
