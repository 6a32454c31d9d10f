"""ONNX Runtime's providers and OpenVINO's hints: what was asked for, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest

from deploy.bundle import Bundle
from deploy.engine_options import EngineOptions
from deploy.engines import ENGINES
from deploy.profiling.measurement import ProfileRequest, measure
from deploy.sessions import (
    BuildRequest,
    Configuration,
    Engine,
    Precision,
    Running,
    Shapes,
    int8_configuration,
    shapes_from_plain,
)
from trueint8.errors import MissingDependency, RunError
from trueint8.kinds import Kind
from trueint8.progress import Silence

AVAILABLE = ["CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture
def inputs(arrays: Path) -> dict[str, np.ndarray]:
    with np.load(arrays) as archive:
        return {name: archive[name][:5] for name in archive.files}


def _shapes(bundle: Bundle) -> Shapes:
    return shapes_from_plain(bundle.manifest.model_dump()["shapes"])


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="has the provider"
)
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_installed_is_an_error(
    bundle: Bundle, tmp_path: Path, provider: Any
) -> None:
    engine: Engine = ENGINES.load("onnxruntime")
    options = EngineOptions(provider=provider)
    running, configuration = Running(1, options), Configuration("int8", "fp32")
    folder = bundle.engine_folder("onnxruntime")
    shapes = _shapes(bundle)
    request = BuildRequest(bundle.int8_graph, tmp_path, shapes, Silence(), options)
    for attempt in (
        lambda: engine.build(request),
        lambda: engine.open(folder, configuration, running),
        lambda: engine.open(bundle.float_graph, Configuration("float", "fp32"), running),
    ):
        with pytest.raises(MissingDependency) as caught:
            attempt()
        assert f"has no {AVAILABLE[provider == 'tensorrt']}" in caught.value.problem
        assert "onnxruntime-gpu" in caught.value.fix


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_silent_fall_back_to_the_cpu_is_an_error(bundle: Bundle) -> None:
    engine: Engine = ENGINES.load("onnxruntime")
    running = Running(1, EngineOptions(provider="cuda"))
    with (
        mock.patch.object(onnxruntime, "get_available_providers", return_value=AVAILABLE),
        pytest.raises(RunError) as caught,
    ):
        engine.open(bundle.float_graph, Configuration("float", "fp32"), running)
    assert "fell back to CPUExecutionProvider: CUDAExecutionProvider could" in caught.value.problem
    assert "nvidia-smi" in caught.value.fix


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_providers_on_gpus_get_the_qdq_graph_as_it_is(
    bundle: Bundle, tmp_path: Path, provider: Any
) -> None:
    engine: Engine = ENGINES.load("onnxruntime")
    options = EngineOptions(provider=provider)
    with mock.patch.object(onnxruntime, "get_available_providers", return_value=AVAILABLE):
        engine.build(BuildRequest(bundle.int8_graph, tmp_path, _shapes(bundle), Silence(), options))
    (path,) = tmp_path.iterdir()
    built, common = onnx.load(path).graph, onnx.load(bundle.int8_graph).graph
    assert [n.op_type for n in built.node] == [n.op_type for n in common.node]


def test_what_the_tensorrt_provider_executes_is_not_invented(bundle: Bundle) -> None:
    engine: Engine = ENGINES.load("onnxruntime")
    running = Running(1, EngineOptions(provider="tensorrt"))
    folder = bundle.engine_folder("onnxruntime")
    assert engine.audit(folder, Configuration("int8", "fp32"), running, {"a": ""}) == []


def test_a_qdq_graph_of_which_nothing_runs_in_int8_is_simulated(
    bundle: Bundle, held_out: Path, tmp_path: Path
) -> None:
    """As on ONNX Runtime's CUDA provider, whose audit finds floats."""
    floats = {m.name: "fp32" for m in bundle.manifest.matmuls}
    request = ProfileRequest(
        [bundle.path], held_out, rounds=3, round_ms=5, samples=4, engines=["onnxruntime"]
    )
    with mock.patch("deploy.audit.executed_precisions", return_value=floats):
        rows = list(measure(request, Silence()))
    assert [(r.graph, r.precision, r.kind) for r in rows] == [
        ("float", "fp32", Kind.MEASURED),
        ("qdq", "fp32", Kind.SIMULATED),
    ]
    assert rows[1].coverage is not None and rows[1].coverage.int8_macs == 0
    assert rows[1].latency is not None


def test_optimized_graphs_hold_no_layout_of_this_processor(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((64, 3, 4, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "patches", strides=[4, 4])],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64, 4, 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "conv.onnx")
    folder = tmp_path / "engine"
    folder.mkdir()
    shape = (1, 3, 16, 16)
    request = BuildRequest(tmp_path / "conv.onnx", folder, {"x": (shape,) * 3}, Silence())
    ENGINES.load("onnxruntime").build(request)
    nodes = onnx.load(folder / "model.onnx").graph.node
    assert {n.domain for n in nodes} <= {"", "com.microsoft"}


@pytest.mark.parametrize("rest", ["fp32", "bf16"])
@pytest.mark.parametrize("graph", ["int8", "float"])
def test_both_hints_compute_the_same(
    bundle: Bundle, inputs: dict[str, np.ndarray], graph: Any, rest: Precision
) -> None:
    engine: Engine = ENGINES.load("openvino")
    if rest not in {c.rest for c in engine.floats()}:
        pytest.skip(f"the plugin has no {rest} here")
    path = bundle.engine_folder("openvino") if graph == "int8" else bundle.float_graph
    found = {}
    hints: tuple[Literal["latency", "throughput"], ...] = ("latency", "throughput")
    for hint in hints:
        running = Running(2, EngineOptions(hint=hint))
        with engine.open(path, Configuration(graph, rest), running) as session:
            whole, again = session.run(inputs)["logits"], session.run(inputs)["logits"]
            one = session.run({k: v[:1] for k, v in inputs.items()})["logits"]
        np.testing.assert_array_equal(whole, again)
        assert (whole.shape[0], one.shape[0]) == (5, 1)
        found[hint] = whole
    scale = np.abs(found["latency"]).max()
    limit = 1e-5 if rest == "fp32" else 0.05
    np.testing.assert_allclose(found["throughput"], found["latency"], atol=limit * scale)


def test_throughput_runs_parts_of_a_batch_side_by_side(
    bundle: Bundle, inputs: dict[str, np.ndarray]
) -> None:
    from deploy.engines.openvino import OpenVinoSession

    folder = bundle.engine_folder("openvino") / "model.xml"
    with OpenVinoSession(folder, "fp32", Running(2, EngineOptions(hint="throughput"))) as session:
        assert len(session._idle[0]) > 1
        session.run(inputs)
        sizes = [r.get_output_tensor(0).shape[0] for r in session._idle[0][:5]]
        assert sum(sizes) == 5 and max(sizes) - min(sizes) <= 1
    with OpenVinoSession(folder, "fp32", Running(2)) as session:
        assert len(session._idle[0]) == 1


@pytest.mark.parametrize("hint", ["latency", "throughput"])
def test_int8_with_an_fp16_hint_stays_refused(bundle: Bundle, hint: Any) -> None:
    engine: Engine = ENGINES.load("openvino")
    running = Running(1, EngineOptions(hint=hint))
    with pytest.raises(RunError, match="hang with an FP16 hint"):
        engine.open(bundle.engine_folder("openvino"), Configuration("int8", "fp16"), running)
    assert int8_configuration(engine) is not None
