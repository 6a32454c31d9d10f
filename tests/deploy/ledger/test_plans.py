"""What ledgers of plans need, without a GPU.

Plans of TensorRT-RTX are built here, and no plan runs: their layers are sorted into parts with
times that are made up, and clocks and copies are those of a GPU of NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from deploy.bundle import Bundle
from deploy.engine_options import EngineOptions
from deploy.engines import ENGINES
from deploy.engines.onnxruntime import OnnxRuntimeSession
from deploy.ledger.accounting import _with_this_batch
from deploy.ledger.dispatch import Dispatch, beside_device
from deploy.ledger.eligible import why_not
from deploy.ledger.parts import Timed, parts_of
from deploy.ledger.plans import check_built_for, compiled_once, measure_device_copies
from deploy.ledger.probing import _peaks_of, measure_peaks
from deploy.ledger.timing import time_interleaved_sessions
from deploy.nvidia.engine import FILE
from deploy.nvidia.session import PlanSession
from deploy.sessions import Configuration, Engine, Running, Shapes
from export.attentions import find_attentions
from export.onnx_file import load_clean
from tests.deploy.nvidia.fakes import PLAN, WIDTH, FakeDevice, FakeRunner
from trueint8.errors import ConfigError, MissingDependency, RunError

NAME = "tensorrt-rtx"
MADE_UP_NS = 1e6
CEILING_NS = 1e4


def test_layers_of_a_plan_have_their_parts(built: Callable[[str], Bundle]) -> None:
    bundle, engine = built("bert"), ENGINES.load(NAME)
    try:
        engine.version()
    except MissingDependency as err:
        pytest.skip(err.problem)
    names = {m.name: m.returns for m in bundle.manifest.matmuls_of(NAME)}
    kernels = engine.audit(
        bundle.engine_folder(NAME), Configuration("int8", "fp16"), bundle.running(NAME, 1), names
    )
    timed = Timed(
        kernels=kernels,
        times_ns={kernel.name: MADE_UP_NS for kernel in kernels},
        ceilings_ns=dict.fromkeys(names, CEILING_NS),
        attentions=[a.matmuls for a in find_attentions(load_clean(bundle.float_graph))],
        precision="int8",
    )
    parts = {part.name: part for part in parts_of(timed, Dispatch(5e5, "made up"))}
    assert not timed.not_found()
    assert sum(part.kernels for part in parts.values()) == len(kernels)
    whole = sum(part.measured_ms for part in parts.values())
    assert whole == pytest.approx(len(kernels) * MADE_UP_NS / 1e6 + 0.5)
    held = sum(part.ceiling_ms for part in parts.values())
    assert held == pytest.approx(len(names) * CEILING_NS / 1e6)
    counted = {name: part.kernels for name, part in parts.items()}
    heads = 2  # what predicts tokens stays in float
    assert counted["float matmuls"] == heads
    attended = {name for pair in timed.attentions for name in pair}
    joined = [k for k in kernels if k.kind == "matmul" and not attended & set(k.matmuls)]
    assert counted["matmuls below peak"] == len(joined) - heads > 0
    assert counted["unfused attention"] == 3 * len(timed.attentions)  # heads 8 wide are not fused
    for kind in ("quantize", "reformat", "pointwise", "normalization"):
        assert counted[kind] == sum(k.kind == kind for k in kernels) > 0


def test_a_plan_has_no_ledger_where_it_cannot_run(built: Callable[[str], Bundle]) -> None:
    if not ENGINES.load(NAME).runs_here:
        assert why_not(built("bert"), NAME) == "it cannot run here"


def test_a_graph_becomes_one_plan_and_others_are_opened_as_they_are(
    built: Callable[[str], Bundle], tmp_path: Path
) -> None:
    bundle, engine = built("bert"), ENGINES.load(NAME)
    try:
        engine.version()
    except MissingDependency as err:
        pytest.skip(err.problem)
    floats, running = Configuration("float", "fp16"), bundle.running(NAME, 1)
    names = {m.name: m.returns for m in bundle.manifest.matmuls_of(NAME)}
    folder = compiled_once(engine, bundle.float_graph, floats, running, tmp_path / "plan")
    plan = (folder / FILE).read_bytes()
    assert folder == tmp_path / "plan" and plan
    assert engine.plan_of(folder, floats, running)[0] == plan, "it is not compiled again"
    assert {k.precision for k in engine.audit(folder, floats, running, names) if k.matmuls} == {
        "fp16"
    }
    int8 = bundle.engine_folder(NAME)
    assert (
        compiled_once(engine, int8, Configuration("int8", "fp16"), running, tmp_path / "no") == int8
    )
    other = ENGINES.load("onnxruntime")
    graph = bundle.float_graph
    assert compiled_once(other, graph, floats, running, tmp_path / "no") == graph
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("size", [1, 1 << 27])
def test_copies_on_a_device_leave_nothing_behind(size: int) -> None:
    device = FakeDevice(total=1 << 28)
    rate, touched = measure_device_copies(device, size)
    assert touched == max(size, 1 << 26)
    copy_s = 0.25e-3  # what that device says of each
    assert rate == pytest.approx(touched / copy_s)
    assert not device.held and not device.open


def test_a_device_without_room_leaves_nothing_behind() -> None:
    device = FakeDevice(total=1 << 20)
    with pytest.raises(RunError, match="out of GPU memory"):
        measure_device_copies(device, 1 << 22)
    assert not device.held and not device.open


def test_dispatch_is_what_the_events_do_not_enclose() -> None:
    """Two copies and one kernel take a quarter each there, and the host's clock is real."""
    device = FakeDevice()

    class OfPlans:
        runs_checkpoint = False

        def open(self, path: Path, configuration: Configuration, running: Running) -> PlanSession:
            return PlanSession(FakeRunner(device), PLAN, str(path), running, device)

    batch = {"x": np.ones((1, 1, WIDTH), np.float32)}
    paths = {"it": (Path("plan"), Configuration("int8", "fp16"))}
    engine: Any = OfPlans()
    (times,) = time_interleaved_sessions(
        engine, paths, Running(1, EngineOptions()), batch, rounds=3, round_ms=0.1
    ).values()
    kernel_ns = 250_000
    assert {t for calls in times.device_rounds_ns for t in calls} == {kernel_ns}
    assert times.kernel_rounds_ns == [{"double": 5e5, "nothing": 0.0}] * 3
    beside = float(np.median([np.mean(calls) for calls in times.rounds_ns])) - kernel_ns
    assert beside_device(times).ns == pytest.approx(beside)
    assert not device.held and not device.open


def test_a_batch_that_no_plan_was_built_for_is_refused() -> None:
    shapes: Shapes = {"ids": ((1, 1), (8, 64), (8, 128))}
    check_built_for(shapes, {"ids": np.zeros((8, 128), np.int64)})
    with pytest.raises(ConfigError, match="ids:9x128 is not within .*, ids:1x1 to ids:8x128"):
        check_built_for(shapes, {"ids": np.zeros((9, 128), np.int64)})


@pytest.mark.parametrize("asked", [(), ("torch",)])
def test_an_engine_that_the_batch_does_not_fit_is_left_out_unless_asked_for(
    asked: tuple[str, ...],
) -> None:
    def check(engine: Engine) -> None:
        if engine.runs_checkpoint:
            raise ConfigError("too small", fix="pass more rows")

    subject: Any = SimpleNamespace(check=check, request=SimpleNamespace(engines=asked))
    graphs, modules = ENGINES.load("onnxruntime"), ENGINES.load("torch")
    if not asked:
        assert _with_this_batch([graphs, modules], subject) == [graphs]
        assert _with_this_batch([modules, graphs], subject) == [graphs]
    with pytest.raises(ConfigError, match="too small"):
        _with_this_batch([modules], subject)


@pytest.mark.parametrize("needed", [True, False])
def test_a_probe_that_fails_is_left_out_unless_it_is_needed(needed: bool) -> None:
    failing, other = ENGINES.load("onnxruntime"), ENGINES.load("openvino")
    names = [failing.name] if needed else [other.name]
    with mock.patch.object(OnnxRuntimeSession, "kernel_times", return_value={"another": 5.0}):
        if needed:
            with pytest.raises(RunError, match="times no kernel by the name"):
                measure_peaks([failing, other], 1, (128, 256, 128), needed=names)
            return
        found = measure_peaks([failing, other], 1, (128, 256, 128), needed=names)
    assert found and {peak.engine for peak in found} == {other.name}


def test_an_engine_whose_profiler_has_other_names_has_no_peak() -> None:
    engine = ENGINES.load("onnxruntime")
    x, weight = np.ones((2, 4), np.float32), np.ones((4, 4), np.float32)
    with (
        mock.patch.object(OnnxRuntimeSession, "kernel_times", return_value={"another": 5.0}),
        pytest.raises(RunError, match="times no kernel by the name that it multiplies under"),
    ):
        list(_peaks_of(engine, x, weight, 1))
