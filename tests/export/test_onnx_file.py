"""ONNX files in: what is accepted computes the same; what is refused says why and what to do."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import onnx_file
from export.matmuls import find_matmuls
from export.onnx_file import load_clean, load_onnx_file, model_bytes, save_model
from tests.export.graphs import normal, operators, proto_from_text, run_plainly
from trueint8.errors import ExportError

TEXT = """
two (float[batch, 16] x) => (float[batch, 4] y) {
    [first] h = MatMul(x, w0)
    g = Relu(h)
    [last] m = MatMul(g, w1)
    y = Add(m, b)
}
"""
WEIGHTS = {"w0": normal(0, 16, 64), "w1": normal(1, 64, 4), "b": normal(2, 4)}
X = normal(3, 2, 16)

Change = Callable[[onnx.ModelProto], None]


def _model() -> onnx.ModelProto:
    return proto_from_text(TEXT, WEIGHTS, opset=17)


def _refusal(path: Path) -> ExportError:
    with pytest.raises(ExportError) as caught:
        load_onnx_file(path)
    assert str(path) in caught.value.problem
    assert len(caught.value.fix.split()) >= 4
    return caught.value


def _saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _with_external_data(folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save_model(
        _model(), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    return path


def _edited(path: Path, change: Callable[[TensorProto], None]) -> Path:
    model = onnx.load(str(path), load_external_data=False)
    change(model.graph.initializer[0])
    return _saved(model, path.parent)


def _moved_to(location: str) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        next(e for e in tensor.external_data if e.key == "location").value = location

    return change


def _without(key: str) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        kept = [(e.key, e.value) for e in tensor.external_data if e.key != key]
        del tensor.external_data[:]
        for name, value in kept:
            tensor.external_data.add(key=name, value=value)

    return change


def test_a_plain_file_is_read_and_computes_the_same(tmp_path: Path) -> None:
    path = _saved(_model(), tmp_path)
    model = load_onnx_file(path)
    assert operators(model) == ["MatMul", "Relu", "MatMul", "Add"]
    np.testing.assert_array_equal(run_plainly(model, {"x": X})[0], run_plainly(path, {"x": X})[0])
    out = tmp_path / "out.onnx"
    save_model(model, out)
    assert [m.name for m in find_matmuls(load_clean(out), modules_named=False)] == ["first", "last"]
    np.testing.assert_array_equal(run_plainly(out, {"x": X})[0], run_plainly(path, {"x": X})[0])


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 10, 0.25, 0.5, 0.9, -200, -30, -15, -2, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: float) -> None:
    path = _saved(_model(), tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(cut * len(raw)) if isinstance(cut, float) else cut])
    assert "export" in _refusal(path).fix


def test_a_file_cut_behind_the_graph_is_refused(tmp_path: Path) -> None:
    model = _model()
    model.ClearField("opset_import")
    assert "opset" in _refusal(_saved(model, tmp_path)).problem


@pytest.mark.parametrize(
    "content", [b"", b"not a model\n", b"\x89PNG\r\n\x1a\n" * 20, b"PK\x03\x04" * 30, bytes(64)]
)
def test_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert "export" in _refusal(path).fix


def test_an_empty_graph_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph([], "g", [], [])
    assert "empty graph" in _refusal(_saved(helper.make_model(graph), tmp_path)).problem


def test_external_data_beside_the_file_is_read(tmp_path: Path) -> None:
    path = _with_external_data(tmp_path)
    actual = run_plainly(load_onnx_file(path), {"x": X})[0]
    np.testing.assert_array_equal(actual, run_plainly(_model(), {"x": X})[0])


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    path = _with_external_data(tmp_path)
    (tmp_path / "weights.bin").unlink()
    error = _refusal(path)
    assert "'weights.bin' is missing" in error.problem
    assert error.fix == f"copy weights.bin into {tmp_path}"


@pytest.mark.parametrize("key", [None, "length"])
def test_truncated_external_data_is_refused(tmp_path: Path, key: str | None) -> None:
    path = _with_external_data(tmp_path)
    if key is not None:
        for index in range(3):
            model = onnx.load(str(path), load_external_data=False)
            _without(key)(model.graph.initializer[index])
            _saved(model, tmp_path)
    data = tmp_path / "weights.bin"
    data.write_bytes(data.read_bytes()[:-8])
    error = _refusal(path)
    assert "weights.bin" in error.problem
    assert "truncated" in error.fix or "again" in error.fix


@pytest.mark.parametrize(
    "location", ["../secret.bin", "{outside}/secret.bin", "sub/../../secret.bin", ""]
)
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    path = _edited(_with_external_data(folder), _moved_to(location.format(outside=tmp_path)))
    error = _refusal(path)
    assert "outside the model's folder" in error.problem
    assert "re-save" in error.fix


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = _with_external_data(folder)
    (folder / "weights.bin").rename(tmp_path / "elsewhere.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    assert "outside the model's folder" in _refusal(path).problem


def test_a_link_within_the_folder_is_read_or_refused_with_a_fix(tmp_path: Path) -> None:
    path = _with_external_data(tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "blob")
    (tmp_path / "weights.bin").symlink_to(tmp_path / "blob")
    try:
        model = load_onnx_file(path)
    except ExportError as err:
        assert "external data" in err.problem
    else:
        assert operators(model) == ["MatMul", "Relu", "MatMul", "Add"]


@pytest.mark.parametrize(("key", "value"), [("offset", "-8"), ("length", "many"), ("offset", "x")])
def test_nonsense_in_external_data_is_refused(tmp_path: Path, key: str, value: str) -> None:
    def change(tensor: TensorProto) -> None:
        _without(key)(tensor)
        tensor.external_data.add(key=key, value=value)

    assert "external data" in _refusal(_edited(_with_external_data(tmp_path), change)).problem


def test_a_file_that_is_already_quantized_is_refused(tmp_path: Path) -> None:
    text = """g (float[2, 4] x) => (float[2, 4] y) {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        y = MatMul(d, w)
    }"""
    weights = {"s": np.float32(0.1), "z": np.int8(0), "w": normal(0, 4, 4)}
    error = _refusal(_saved(proto_from_text(text, weights), tmp_path))  # type: ignore[arg-type]
    assert "already quantized: it holds QuantizeLinear" in error.problem
    assert error.fix == "pass the float model"


def test_quantization_inside_a_function_is_seen(tmp_path: Path) -> None:
    model = _with_function("q = DynamicQuantizeLinear")
    assert "already quantized" in _refusal(_saved(model, tmp_path)).problem


def _with_function(kind: str = "") -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["m"], name="inner"),
        helper.make_node("Relu", ["m"], ["r"]),
    ]
    if kind:
        nodes.insert(0, helper.make_node("DynamicQuantizeLinear", ["a"], ["q", "s", "z"]))
        nodes[1] = helper.make_node("MatMulInteger", ["q", "b", "z"], ["m"])
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("local", "Linear", ["a", "b"], ["r"], nodes, opsets)
    calls = [
        helper.make_node("Linear", ["x", "w0"], ["h"], domain="local"),
        helper.make_node("Linear", ["h", "w1"], ["y"], domain="local"),
    ]
    graph = helper.make_graph(
        calls,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(WEIGHTS[n], n) for n in ("w0", "w1")],
    )
    opsets = [*opsets, helper.make_opsetid("local", 1)]
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    path = _saved(_with_function(), tmp_path)
    model = load_onnx_file(path)
    matmuls = find_matmuls(model, modules_named=False)
    assert [m.weight for m in matmuls] == ["w0", "w1"]
    assert len({m.name for m in matmuls}) == 2
    expected = np.maximum(np.maximum(X @ WEIGHTS["w0"], 0) @ WEIGHTS["w1"], 0)
    np.testing.assert_allclose(run_plainly(model, {"x": X})[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("behind_constant", [False, True])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (TensorProto.FLOAT16, "FLOAT16"),
        (TensorProto.BFLOAT16, "BFLOAT16"),
        (TensorProto.DOUBLE, "DOUBLE"),
    ],
)
def test_weights_that_are_not_float32_are_refused(
    tmp_path: Path, kind: int, name: str, behind_constant: bool
) -> None:
    weight = helper.make_tensor("w", kind, [4, 4], np.ones(16))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if behind_constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [2, 4])],
        [helper.make_tensor_value_info("y", kind, [2, 4])],
        [] if behind_constant else [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    error = _refusal(_saved(model, tmp_path))
    assert f"weights in {name}" in error.problem
    assert error.fix == "export the model in float32"


@pytest.mark.parametrize("opset", [11, 12])
def test_an_old_opset_is_converted(tmp_path: Path, opset: int) -> None:
    path = _saved(proto_from_text(TEXT, WEIGHTS, opset=opset), tmp_path)
    model = load_onnx_file(path)
    assert model.opset_imports[""] >= 13
    np.testing.assert_allclose(
        run_plainly(model, {"x": X})[0], run_plainly(_model(), {"x": X})[0], rtol=1e-5, atol=1e-5
    )


def test_an_old_opset_that_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    text = "g (float[2, 4] x) => (float[2, 4] y) { y = Unheard(x) }"
    error = _refusal(_saved(proto_from_text(text, opset=11), tmp_path))
    assert "opset 11" in error.problem
    assert error.fix == "export it again with opset 17 or later"


def test_initializers_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    model = _model()
    for name in ("w0", "w1", "b"):
        shape = list(WEIGHTS[name].shape)
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    clean = load_onnx_file(_saved(model, tmp_path))
    assert [v.name for v in clean.graph.inputs] == ["x"]
    assert [m.weight for m in find_matmuls(clean, modules_named=False)] == ["w0", "w1"]


@pytest.mark.parametrize("shape", ["batch, 16", "3, 16", ", 16", "2, 16"])
def test_axes_stay_static_or_dynamic(tmp_path: Path, shape: str) -> None:
    first = shape.split(",")[0]
    text = TEXT.replace("float[batch, 16] x", f"float[{first or 'batch'}, 16] x")
    model = proto_from_text(text, WEIGHTS, opset=17)
    if not first:
        model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    axis = load_onnx_file(_saved(model, tmp_path)).graph.inputs[0].shape
    assert axis is not None and axis[1] == 16
    assert isinstance(axis[0], int) == first.isdigit()
    if first.isdigit():
        assert axis[0] == int(first)


BEHIND = {
    "constant": "k = Constant<value = float[2, 3] {1, 2, 3, 4, 5, 6}>()  y = MatMul(x, k)",
    "transpose": "t = Transpose<perm=[1, 0]>(v)  y = MatMul(x, t)",
    "identity": "i = Identity(w)  y = MatMul(x, i)",
    "cast": "c = Cast<to=1>(w)  y = MatMul(x, c)",
    "integers": "c = Cast<to=1>(n)  y = MatMul(x, c)",
    "reshape": "r = Reshape(flat, shape)  y = MatMul(x, r)",
    "chain": "i = Identity(v)  t = Transpose<perm=[1, 0]>(i)  c = Cast<to=1>(t)  y = MatMul(x, c)",
    "gemm": "y = Gemm<transB=1>(x, v)",
    "gemm behind constant": "v2 = Constant<value = float[3, 2] {1, 4, 2, 5, 3, 6}>()"
    "  y = Gemm<transB=1>(x, v2)",
    "scaled": "s = Mul(w, one)  y = MatMul(x, s)",
}


@pytest.mark.parametrize("case", sorted(BEHIND))
def test_a_weight_is_seen_behind_what_depends_on_constants_alone(tmp_path: Path, case: str) -> None:
    w = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    constants: dict[str, np.ndarray] = {
        "w": w,
        "v": np.ascontiguousarray(w.T),
        "n": w.astype(np.int64),
    }
    constants |= {"flat": w.reshape(-1), "shape": np.array([2, 3]), "one": np.ones(1, np.float32)}
    text = f"g (float[batch, 2] x) => (float[batch, 3] y) {{ {BEHIND[case]} }}"
    words = re.findall(r"\w+", BEHIND[case])
    used = {name: array for name, array in constants.items() if name in words}
    model = load_onnx_file(_saved(proto_from_text(text, used, opset=17), tmp_path))
    (matmul,) = find_matmuls(model, modules_named=False)
    assert matmul.weight is not None
    x = normal(0, 3, 2)
    np.testing.assert_allclose(run_plainly(model, {"x": x})[0], x @ w, rtol=1e-6)


def test_a_graph_beyond_the_limit_keeps_its_weights_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_onnx_file(_saved(_model(), tmp_path))
    monkeypatch.setattr(onnx_file, "EXTERNAL_ABOVE_BYTES", 1000)
    out = tmp_path / "big.onnx"
    save_model(model, out)
    assert (tmp_path / "big.onnx.data").stat().st_size >= WEIGHTS["w0"].nbytes
    assert out.stat().st_size < WEIGHTS["w0"].nbytes
    expected = run_plainly(_model(), {"x": X})[0]
    np.testing.assert_array_equal(run_plainly(out, {"x": X})[0], expected)
    whole = onnx.load_from_string(model_bytes(load_clean(out)))
    np.testing.assert_array_equal(run_plainly(whole, {"x": X})[0], expected)


def test_an_invalid_graph_is_refused(tmp_path: Path) -> None:
    model = _model()
    model.graph.node[1].output[0] = "w0"
    error = _refusal(_saved(model, tmp_path))
    assert "not a valid graph" in error.problem and "'w0'" in error.problem


def test_the_file_read_is_never_changed(tmp_path: Path) -> None:
    path = _saved(_model(), tmp_path)
    before = path.read_bytes()
    os.chmod(path, stat.S_IRUSR)
    load_onnx_file(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
