"""An operator that an engine refuses is named, with its node and an engine that has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from deploy.engines import ENGINES
from deploy.sessions import BuildRequest
from deploy.unsupported import explained
from export.onnx_file import save_model
from tests.deploy.running import run_here
from tests.export.graphs import graph_from_text
from trueint8.errors import BuildError, MissingDependency
from trueint8.progress import Silence

UNKNOWN = "g (float[2, 4] x) => (float[2, 4] y) { [odd] y = Unheard(x) }"
NO_RTX = """
g (float[2, 4, 4] x) => (float[2] z) {
    [plain] y = Relu(x)
    [measure] z = Det(y)
}
"""


def _refused(engine: str, text: str, folder: Path) -> BuildError:
    try:
        ENGINES.load(engine).version()
    except MissingDependency as err:
        pytest.skip(err.problem)
    path = folder / "graph.onnx"
    model = graph_from_text(text)
    save_model(model, path)
    out = folder / "engine"
    out.mkdir()
    shape = tuple(d for d in model.graph.inputs[0].shape or () if isinstance(d, int))
    with pytest.raises(BuildError) as caught:
        ENGINES.load(engine).build(BuildRequest(path, out, {"x": (shape,) * 3}, Silence()))
    return explained(caught.value, engine, path)


def test_another_engine_that_has_the_operator_is_named(tmp_path: Path) -> None:
    found = _refused("tensorrt-rtx", NO_RTX, tmp_path)
    assert found.problem.startswith(
        "tensorrt-rtx does not take the operator Det of node 'measure': "
    )
    assert found.fix == "build with --engine onnxruntime, which has it"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "tensorrt-rtx"])
def test_what_no_engine_has(engine: str, tmp_path: Path) -> None:
    found = _refused(engine, UNKNOWN, tmp_path)
    assert f"{engine} does not take the operator Unheard of node 'odd'" in found.problem
    assert "no other engine" in found.fix


def test_a_refusal_that_names_no_operator_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    save_model(graph_from_text(UNKNOWN), path)
    error = BuildError("no reason was logged", fix="try again")
    assert explained(error, "openvino", path) is error


def test_a_build_says_so(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    weight = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["u"], "up"),
            helper.make_node("Reshape", ["u", "squares"], ["s"], "cut"),
            helper.make_node("Det", ["s"], ["d"], "measure"),
            helper.make_node("ReduceMean", ["d"], ["m"], "mean", keepdims=0),
            helper.make_node("Add", ["u", "m"], ["y"], "join"),
        ],
        "det",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 32])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.array([-1, 2, 4, 4]), "squares"),
        ],
    )
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10),
        tmp_path / "det.onnx",
    )
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(1).random((16, 32), np.float32))
    ended = run_here(
        "build", tmp_path / "det.onnx", "--int8", "--calib-data", tmp_path / "data.npz",
        "--task", "feature-extraction", "--engine", "tensorrt-rtx", "-o", tmp_path / "out",
        "--quiet",
    )  # fmt: skip
    ended.refused(7, "operator Det of node 'measure'", "--engine onnxruntime, which has it")
