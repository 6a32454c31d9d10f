"""What engines say they execute, and how long each kernel took."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deploy.drawn_inputs import blank_inputs
from deploy.engines import ENGINES
from deploy.kernels import Kernel, KernelTimes, executed_precisions, fused_attentions
from deploy.runtime_model import AveragedTimes
from deploy.sessions import BuildRequest, Configuration, Running, Shapes, int8_configuration
from export.onnx_file import load_clean, save_model
from export.passes.name_products import NameProducts
from tests.deploy.misplaced import Encoder
from trueint8.errors import RunError
from trueint8.progress import Silence

ENCODER = Encoder(layers=2)
FLOAT = Configuration("float", "fp32")
SHAPES: Shapes = {"x": ((1, 1, 64), ENCODER.shape, ENCODER.shape)}
RUNNING = Running(1, shapes=SHAPES)
MATMULS = dict.fromkeys(ENCODER.macs(), "")


def prepared(encoder: Encoder, folder: Path) -> Path:
    """Write an encoder with names that are found again."""
    path = encoder.write(folder / "graph.onnx")
    model = load_clean(path)
    NameProducts()(model)
    save_model(model, path)
    return path


def opened(name: str, kind: str, folder: Path) -> tuple[Path, Configuration]:
    """Return what an engine opens for the float or the INT8 encoder."""
    engine = ENGINES.load(name)
    if kind == "float":
        return prepared(replace(ENCODER, placing="none"), folder), FLOAT
    configuration = int8_configuration(engine)
    assert configuration is not None
    target = folder / "engine"
    target.mkdir()
    engine.build(BuildRequest(prepared(ENCODER, folder), target, SHAPES, Silence()))
    return target, configuration


@pytest.mark.parametrize("kind", ["int8", "float"])
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_every_kernel_is_listed_once_and_timed_by_its_name(
    name: str, kind: str, tmp_path: Path
) -> None:
    engine = ENGINES.load(name)
    path, configuration = opened(name, kind, tmp_path)
    kernels = engine.audit(path, configuration, RUNNING, MATMULS)
    names = [kernel.name for kernel in kernels]
    assert len(set(names)) == len(names)
    with engine.open(path, configuration, replace(RUNNING, profiled=True)) as session:
        batch = blank_inputs(session.inputs, SHAPES)
        for _ in range(3):
            session.run(batch)
        times = session.kernel_times()
    assert set(times) <= set(names)
    assert {kernel.name for kernel in kernels if kernel.precision} <= set(times)
    assert min(times.values()) >= 0 and sum(times.values()) > 0
    executed = executed_precisions(kernels, MATMULS)
    linear = {n: p for n, p in executed.items() if "scores" not in n and "context" not in n}
    assert set(linear.values()) == {"int8" if kind == "int8" else "fp32"}
    assert {p for n, p in executed.items() if n not in linear} == {"fp32"}
    kinds = Counter(kernel.kind for kernel in kernels)
    assert kinds["normalization"] == 2 * ENCODER.layers
    assert bool(kinds["quantize"]) == (kind == "int8")
    assert {k.precision for k in kernels if k.kind not in ("matmul", "attention")} == {""}


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_what_moves_bytes_says_how_many(name: str, tmp_path: Path) -> None:
    path, configuration = opened(name, "int8", tmp_path)
    kernels = ENGINES.load(name).audit(path, configuration, RUNNING, MATMULS)
    quantize = next(k for k in kernels if k.kind == "quantize")
    elements = 2 * 16 * 64
    assert quantize.bytes is not None and 5 * elements <= quantize.bytes <= 5 * elements + 8
    assert all(k.bytes for k in kernels if k.kind == "reformat")
    assert all(k.bytes is None for k in kernels if k.kind not in ("quantize", "reformat"))


def test_weights_alone_in_int8_are_no_int8_product(tmp_path: Path) -> None:
    """OpenVINO calls the layer ``i8`` and runs ``brgemm_avx512_f32``, or the like."""
    engine = ENGINES.load("openvino")
    path = prepared(Encoder(placing="weight"), tmp_path)
    engine.build(BuildRequest(path, tmp_path, SHAPES, Silence()))
    configuration = Configuration("int8", engine.int8_rest() or "fp32")
    kernels = engine.audit(tmp_path, configuration, RUNNING, dict.fromkeys(Encoder().macs(), ""))
    matmuls = [k for k in kernels if k.kind == "matmul"]
    assert len(matmuls) == 6
    assert not any(k.precision == "int8" for k in matmuls)
    assert not any(k.implementation.lower().endswith("i8") for k in matmuls)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_session_that_is_not_profiled_has_no_times(name: str, tmp_path: Path) -> None:
    path, configuration = opened(name, "float", tmp_path)
    with ENGINES.load(name).open(path, configuration, RUNNING) as session:
        session.run(blank_inputs(session.inputs, SHAPES))
        with pytest.raises(RunError, match="no profile|no kernel was timed") as caught:
            session.kernel_times()
    assert "profiled=True" in caught.value.fix


def test_the_first_run_is_a_warm_up() -> None:
    times = KernelTimes()
    times.add_run({"a": 100.0, "b": 1.0})
    assert times.per_run() == {"a": 100.0, "b": 1.0}
    times.add_run({"a": 10.0})
    times.add_run({"a": 20.0, "b": 4.0})
    assert times.per_run() == {"a": 15.0, "b": 2.0}
    with pytest.raises(RunError):
        KernelTimes().per_run()


def test_averages_since_compilation_lose_their_warm_up() -> None:
    """What OpenVINO tells of a layer is its mean over every run so far, in whole microseconds."""

    class Layer:
        def get_friendly_name(self) -> str:
            return "a"

        def get_rt_info(self) -> dict[str, Any]:
            return {"layerType": SimpleNamespace(value="MatMul")}

        def get_input_size(self) -> int:
            return 0

    graph = SimpleNamespace(get_ordered_ops=lambda: [Layer()])
    status = SimpleNamespace(EXECUTED=1)
    times, runs_us = AveragedTimes(), [100, 20, 30, 50]
    for count in range(1, len(runs_us) + 1):
        mean = timedelta(microseconds=sum(runs_us[:count]) / count)
        layer = SimpleNamespace(node_name="a", real_time=mean, status=1, Status=status)
        times.add_run(SimpleNamespace(profiling_info=[layer]))
        expected = np.mean(runs_us[1:count] or runs_us[:1]) * 1e3 + 500
        assert times.per_run(graph)["a"] == pytest.approx(expected)
    with pytest.raises(RunError):
        AveragedTimes().per_run(graph)


def test_a_plan_lists_every_kernel(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    engine = ENGINES.load("tensorrt-rtx")
    path = prepared(replace(ENCODER, half=True), tmp_path)
    engine.build(BuildRequest(path, tmp_path, SHAPES, Silence()))
    kernels = engine.audit(tmp_path, Configuration("int8", "fp16"), Running(1), MATMULS)
    names = [kernel.name for kernel in kernels]
    assert len(set(names)) == len(names)
    kinds = Counter(kernel.kind for kernel in kernels)
    assert kinds["attention"] == 2 and kinds["quantize"] >= 1 and kinds["normalization"] >= 4
    covered = [name for kernel in kernels for name in kernel.matmuls]
    assert sorted(covered) == sorted(MATMULS)
    assert all(isinstance(kernel, Kernel) and kernel.implementation for kernel in kernels)


def test_an_attention_is_fused_where_one_kernel_has_all_of_its_matmuls() -> None:
    kernels = [
        Kernel("a", "attention", "fp32", matmuls=("0.scores", "0.context")),
        Kernel("b", "matmul", "fp32", matmuls=("1.scores",)),
        Kernel("c", "attention", "fp32", matmuls=("1.context",)),
        Kernel("d", "matmul", "fp32", matmuls=("2.scores", "2.context")),
    ]
    pairs = [(f"{i}.scores", f"{i}.context") for i in range(3)]
    assert fused_attentions(kernels, pairs) == 1
