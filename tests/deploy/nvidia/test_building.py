"""What is built for which options, and what a refused graph or plan is told, with TensorRT-RTX."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from deploy.engine_options import GPU_TARGETS, EngineOptions
from deploy.engines import ENGINES
from deploy.nvidia.engine import FILE, PlanEngine
from deploy.nvidia.plan_text import plan_operations
from deploy.sessions import BuildRequest, Configuration, Running, Shapes
from export.onnx_file import save_model
from export.passes.to_half import half_graph
from tests.deploy.nvidia.fakes import FakeDevice
from tests.export.graphs import graph_from_text, normal
from trueint8.errors import BuildError, MissingDependency, RunError
from trueint8.progress import Lines, Silence

pytest.importorskip("tensorrt_rtx")
ENGINE: PlanEngine = ENGINES.load("tensorrt-rtx")

LINEAR = """linear (float[batch, 64] x) => (float[batch, 64] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    w = DequantizeLinear(w_q, s, z)
    [up] y = MatMul(d, w)
}"""
CONSTANTS: dict[str, np.ndarray] = {
    "s": np.asarray(0.02, np.float32),
    "z": np.asarray(0, np.int8),
    "w_q": np.ones((64, 64), np.int8),
}
USUAL = EngineOptions()
SHAPES: Shapes = {"x": ((1, 64), (8, 64), (32, 64))}


def linear(folder: Path) -> Path:
    """Write the graph in FP16: Turing has no FP32 matmul of INT8."""
    save_model(half_graph(graph_from_text(LINEAR, CONSTANTS)), folder / "model.onnx")
    return folder / "model.onnx"


def built(folder: Path, options: EngineOptions = USUAL, said: str = "") -> bytes:
    stream = io.StringIO()
    ENGINE.build(BuildRequest(linear(folder), folder, SHAPES, Lines(stream), options))
    assert said in stream.getvalue() if said else "warning" not in stream.getvalue()
    return (folder / FILE).read_bytes()


@pytest.mark.parametrize("targets", [*((t,) for t in GPU_TARGETS), ("sm86", "sm89", "sm120")])
def test_every_target_builds_without_a_gpu(targets: tuple[str, ...], tmp_path: Path) -> None:
    said = "heads up to 32 wide only" if "sm75" in targets else ""
    plan = built(tmp_path, EngineOptions(gpu=targets), said)
    assert [o.precision for o in plan_operations(plan) if o.precision] == ["int8"]


def test_targets_change_the_plan_and_the_same_options_do_not(tmp_path: Path) -> None:
    plans = [built(tmp_path, EngineOptions(gpu=g)) for g in ((), (), ("sm86",), ("sm120",))]
    assert plans[0] == plans[1]
    assert len(set(plans)) == 3


def test_too_little_workspace_is_told_with_its_flag(tmp_path: Path) -> None:
    text = "g (float[64, 1024] x) => (float[64, 1024] y) { [up] y = MatMul(x, w) }"
    save_model(graph_from_text(text, {"w": normal(0, 1024, 1024)}), tmp_path / "wide.onnx")
    request = BuildRequest(
        tmp_path / "wide.onnx", tmp_path, {}, Silence(), EngineOptions(workspace_mib=1)
    )
    with pytest.raises(BuildError) as caught:
        ENGINE.build(request)
    assert "larger --workspace" in caught.value.fix
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("operator", ["Det", "Unheard"])
def test_all_that_the_parser_says_of_an_operator_is_told(operator: str, tmp_path: Path) -> None:
    text = f"g (float[4, 4] x) => (float y) {{ [odd] y = {operator}(x) }}"
    save_model(graph_from_text(text), tmp_path / "odd.onnx")
    with pytest.raises(BuildError) as caught:
        ENGINE.build(BuildRequest(tmp_path / "odd.onnx", tmp_path, {}, Silence()))
    assert f"at odd ({operator}): " in caught.value.problem
    assert "While parsing node number 0" in caught.value.problem, "every line that was logged"
    assert "--engine" in caught.value.fix


def test_a_float_graph_is_compiled_when_it_is_opened(tmp_path: Path) -> None:
    """As far as it goes without a GPU: to the plan."""
    graph = linear(tmp_path)
    for rest, executed in (("fp32", "float"), ("fp16", "half")):
        text = "g (float[batch, 64] x) => (float[batch, 64] y) { [up] y = MatMul(x, w) }"
        save_model(graph_from_text(text, {"w": normal(0, 64, 64)}), graph)
        configuration = Configuration("float", rest)  # type: ignore[arg-type]
        plan, where = ENGINE.plan_of(graph, configuration, Running(1, shapes=SHAPES))
        assert where == "the plan of model.onnx"
        (only,) = [o for o in plan_operations(plan) if o.precision]
        assert only.operands[:2] == [executed, executed]
    with pytest.raises(RunError, match="compiled for given shapes"):
        ENGINE.plan_of(graph, Configuration("float", "fp32"), Running(1))
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_a_plan_that_is_none_is_told_by_the_real_runtime(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"hello" * 100)
    with pytest.raises(RunError) as caught:
        ENGINE.open_on(FakeDevice(), tmp_path, Configuration("int8", "fp16"), Running(1))
    assert "cannot run this plan here: malformed engine" in caught.value.problem
    (tmp_path / FILE).unlink()
    with pytest.raises(RunError, match=r"model\.plan is missing"):
        ENGINE.open_on(FakeDevice(), tmp_path, Configuration("int8", "fp16"), Running(1))


def test_a_sound_plan_is_refused_where_there_is_no_gpu(tmp_path: Path) -> None:
    if ENGINE.runs_here:
        pytest.skip("there is a GPU that runs it")
    built(tmp_path)
    with pytest.raises(RunError, match="cannot run this plan here"):
        ENGINE.open_on(FakeDevice(), tmp_path, Configuration("int8", "fp16"), Running(1))


def test_without_a_package_for_the_gpu_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from deploy.nvidia import device

    monkeypatch.setattr(device, "_installed", lambda module: False)
    with pytest.raises(MissingDependency, match="cuda-python or pycuda") as caught:
        device.open_device()
    assert "pip install cuda-python" in caught.value.fix


def test_an_input_that_decides_shapes_is_refused(tmp_path: Path) -> None:
    text = "g (float[2, 4] x, int64[2] s) => (float[n, m] y) { y = Reshape(x, s) }"
    save_model(graph_from_text(text), tmp_path / "m.onnx")
    with pytest.raises(BuildError, match="input 's' decides the shapes"):
        ENGINE.build(BuildRequest(tmp_path / "m.onnx", tmp_path, {}, Silence()))


def test_the_audit_of_what_is_no_plan_is_an_error(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"this is no plan" * 99)
    with pytest.raises(RunError) as caught:
        ENGINE.audit(tmp_path, Configuration("int8", "fp16"), Running(1), {"up": ""})
    assert "lists no kernels" in caught.value.problem
    assert "build the bundle again" in caught.value.fix
