"""ONNX files whose tensors claim what they do not hold, or keep it where they must not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array as numpy_tensor

from export.onnx_file import load_as_found, load_clean, load_onnx_file
from tests.export.graphs import normal, proto_from_text
from trueint8.errors import ExportError

TEXT = "g (float[batch, 4] x) => (float[batch, 4] y) { y = MatMul(x, w) }"


def _saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _refusal(path: Path) -> ExportError:
    with pytest.raises(ExportError) as caught:
        load_onnx_file(path)
    return caught.value


def _hidden(tensor: TensorProto, where: str) -> onnx.ModelProto:
    """Return a sound graph with a tensor where a walk over initializers does not find it."""
    model = proto_from_text(TEXT, {"w": normal(0, 4, 4)}, opset=17)
    branch = helper.make_graph(
        [helper.make_node("Identity", ["t"], ["o"])],
        "branch",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
        [tensor],
    )
    if where == "branch":
        given = {"then_branch": branch, "else_branch": branch}
        model.graph.node.append(helper.make_node("If", ["c"], ["unused"], **given))
    elif where == "attribute":
        model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))
    elif where == "function":
        node = helper.make_node("Constant", [], ["unused"], value=tensor)
        opset = helper.make_opsetid("", 17)
        model.functions.append(helper.make_function("d", "F", [], ["unused"], [node], [opset]))
    else:
        indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [4]))
    return model


@pytest.mark.parametrize("read", [load_onnx_file, load_clean], ids=["given", "ours"])
@pytest.mark.parametrize("where", ["branch", "attribute", "function", "sparse"])
def test_external_data_outside_is_found_wherever_the_tensor_is(
    tmp_path: Path, where: str, read: Callable[[Path], object]
) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    folder = tmp_path / "model"
    folder.mkdir()
    path = _saved(_hidden(tensor, where), folder)
    with pytest.raises(ExportError, match="outside the model's folder"):
        read(path)


@pytest.mark.parametrize("where", ["branch", "attribute", "function", "sparse"])
@pytest.mark.parametrize(
    "fields",
    [
        {"dims": [2**40], "raw_data": bytes(16)},
        {"dims": [2**40], "float_data": [1.0]},
        {"dims": [2**20] * 8, "float_data": []},
        {"dims": [-4], "raw_data": bytes(16)},
        {"dims": [4], "raw_data": bytes(12)},
        {"dims": [4], "float_data": [1.0] * 3},
        {"dims": [4], "data_type": 12345, "raw_data": bytes(16)},
    ],
    ids=["raw", "typed", "none", "negative", "short", "few", "type"],
)
def test_a_shape_that_the_data_do_not_fill_is_refused_before_memory_is_taken(
    tmp_path: Path, where: str, fields: dict[str, Any]
) -> None:
    tensor = TensorProto(**{"name": "t", "data_type": TensorProto.FLOAT, **fields})
    assert _refusal(_saved(_hidden(tensor, where), tmp_path)).fix


@pytest.mark.parametrize(
    "tensor",
    [
        helper.make_tensor("t", TensorProto.FLOAT16, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("t", TensorProto.INT4, [3], [1, 2, 3]),
        helper.make_tensor("t", TensorProto.BOOL, [], [True]),
        numpy_tensor(np.array([1j, 2j], np.complex64)),
        TensorProto(name="t", data_type=TensorProto.COMPLEX64, dims=[2], float_data=[0.0] * 4),
        numpy_tensor(np.array(["a", "b"], object)),
        helper.make_tensor("t", TensorProto.INT64, [0], []),
    ],
    ids=["half", "nibbles", "scalar", "raw complex", "complex", "text", "empty"],
)
def test_values_of_every_width_fill_their_shape(tmp_path: Path, tensor: TensorProto) -> None:
    assert load_as_found(_saved(_hidden(tensor, "attribute"), tmp_path))


def test_a_file_that_no_protobuf_can_be_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as stream:
        stream.truncate(3 * 2**30)
    assert "2 GiB" in _refusal(path).problem
