"""Every engine end to end on a GPU: build, run, compare, audit, profile, CUDA graph on and off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deploy
from deploy.audit import audit_engine
from deploy.bundle import Bundle
from deploy.engines import ENGINES
from deploy.ledger.accounting import LedgerRequest, account
from deploy.ledger.eligible import why_not
from deploy.nvidia.session import PlanSession
from deploy.sessions import Configuration, Engine, int8_configuration
from tests.deploy import checkpoints
from tests.deploy.nvidia.fakes import FakeDevice
from trueint8.errors import BuildError, MissingDependency, RunError
from trueint8.progress import Silence

pytestmark = pytest.mark.gpu

SMALL: dict[str, Any] = {"calib_samples": 16, "seq_len": 32, "batch_size": 4}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ENGINES.names()},
    "onnxruntime on CUDA": ("onnxruntime", {"provider": "cuda"}),
    "tensorrt without graphs": ("tensorrt", {"no_cuda_graph": True}),
    "tensorrt-rtx without graphs": ("tensorrt-rtx", {"no_cuda_graph": True}),
}


def usable(name: str, options: Mapping[str, Any]) -> Engine:
    """Return an engine that is installed, runs here and reads the options, or skip."""
    engine: Engine = ENGINES.load(name)
    try:
        engine.version()
    except MissingDependency as err:
        pytest.skip(err.problem)
    if not engine.runs_here:
        pytest.skip(f"{name} does not run on this machine")
    if "provider" in options and "provider" not in engine.options:
        pytest.skip(f"{name} has no execution providers")
    return engine


@pytest.fixture(scope="module", params=CASES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Build the embedded encoder with one engine."""
    from deploy.nvidia.device import compute_capability

    if compute_capability() is None:
        pytest.skip("there is no NVIDIA GPU here (nvidia-smi)")
    name, options = CASES[request.param]
    usable(name, options)
    out = tmp_path_factory.mktemp("built") / "bundle"
    return deploy.build(out=out, engine=name, **SMALL, **options)


def engine_of(bundle: Bundle) -> Engine:
    (name,) = bundle.manifest.engines
    engine: Engine = ENGINES.load(name)
    return engine


def inputs_of(bundle: Bundle) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    shape = (2, SMALL["seq_len"])
    return {
        i.name: np.ones(shape, i.dtype) if "mask" in i.name else draw.integers(5, 90, shape)
        for i in bundle.manifest.graph_inputs()
    }


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_it_is_int8_and_near_the_float_model(built: Bundle) -> None:
    engine = engine_of(built)
    (entry,) = built.manifest.engines.values()
    assert entry.runs_here and (entry.cosine or 0) > 0.98
    coverage = audit_engine(built, engine.name).coverage()
    assert coverage is not None
    if entry.options.get("provider") != "cuda":  # which runs Q/DQ in float, and the audit says so
        assert coverage.int8_macs > 0.5 * coverage.total_macs


def test_runs_of_several_shapes_agree_with_float(built: Bundle) -> None:
    feeds = inputs_of(built)
    engine = engine_of(built)
    whole = not engine.runs_checkpoint
    path = built.float_graph if whole else built.engine_folder(engine.name)
    running = built.running(engine.name, 1)
    first = engine.floats()[0]
    with (
        deploy.load(built.path) as session,
        engine.open(path, first, running) as floating,
    ):
        for rows, tokens in ((2, 32), (1, 7), (2, 32), (1, 7), (2, 32)):
            part = {n: np.ascontiguousarray(a[:rows, :tokens]) for n, a in feeds.items()}
            ours, exact = session.run(part), floating.run(part)
            for name in exact:
                assert ours[name].dtype == np.float32
                assert cosine(ours[name], exact[name]) > 0.98
        if isinstance(session, PlanSession):
            assert session.device_ns > 0
            assert session.device_memory().inputs_and_outputs > 0
            too_long = {n: np.ones((1, 4096), a.dtype) for n, a in feeds.items()}
            with pytest.raises(RunError, match="the plan was built for"):
                session.run(too_long)


def test_every_float_configuration_is_near_the_first(built: Bundle) -> None:
    engine = engine_of(built)
    feeds, results = inputs_of(built), []
    folder = built.engine_folder(engine.name)
    path = folder if engine.runs_checkpoint else built.float_graph
    for configuration in engine.floats():
        with engine.open(path, configuration, built.running(engine.name, 1)) as session:
            results.append(next(iter(session.run(feeds).values())))
    assert all(cosine(r, results[0]) > 0.99 for r in results)


def test_kernels_take_time(built: Bundle) -> None:
    engine = engine_of(built)
    configuration = int8_configuration(engine)
    assert isinstance(configuration, Configuration)
    running = replace(built.running(engine.name, 1), profiled=True)
    with engine.open(built.engine_folder(engine.name), configuration, running) as session:
        session.run(inputs_of(built))
        times = session.kernel_times()
    assert times and sum(times.values()) > 0


def test_a_profile_measures_it(built: Bundle, tmp_path: Path) -> None:
    data = tmp_path / "evaluation.txt"
    data.write_text("\n".join(checkpoints.prose(40, 2)) + "\n", "utf-8")
    rows = deploy.profile([built.path], data=data, rounds=3, round_ms=5.0, samples=16)
    assert {r.kind for r in rows} >= {"MEASURED"}
    assert all(r.latency is not None for r in rows if r.kind == "MEASURED")


def test_a_ledger_explains_it(built: Bundle) -> None:
    engine = engine_of(built)
    if why_not(built, engine.name):
        pytest.skip(why_not(built, engine.name))
    request = LedgerRequest(built, [engine.name], rounds=3, round_ms=5.0)
    (ledgers,) = account(request, Silence())
    assert {"float-fp32", "int8"} <= {ledger.configuration for ledger in ledgers}
    for ledger in ledgers:
        parts = {part.name: part for part in ledger.parts}
        assert not ledger.not_found and parts["dispatch"].ms > 0
        whole = ledger.ceiling_ms + sum(p.ms for p in ledger.parts) + ledger.unexplained_ms
        assert whole == pytest.approx(ledger.latency.value)


def test_an_rtx_plan_on_a_gpu_that_has_no_kernels_for_it_is_refused(
    capability: str, tmp_path: Path
) -> None:
    """Hopper, by TensorRT-RTX's support matrix; this asks the library itself."""
    engine = ENGINES.load("tensorrt-rtx")
    if not engine.installed():
        pytest.skip("TensorRT-RTX is not installed")
    if engine.runs_here:
        pytest.skip(f"TensorRT-RTX runs on compute capability {capability}")
    bundle = deploy.build(out=tmp_path / "b", engine="tensorrt-rtx", **SMALL)
    folder, running = bundle.engine_folder(engine.name), bundle.running(engine.name, 1)
    with pytest.raises(RunError, match="cannot run this plan here"):
        engine.open_on(FakeDevice(), folder, Configuration("int8", "fp16"), running)


def test_a_timing_cache_is_written_and_read(tmp_path: Path) -> None:
    usable("tensorrt", {})
    cache = tmp_path / "timings.bin"
    for index in range(2):
        deploy.build(
            out=tmp_path / f"b{index}", engine="tensorrt", timing_cache=str(cache), **SMALL
        )
        assert cache.stat().st_size > 0
    cache.write_bytes(b"no timings")
    with pytest.raises(BuildError, match="timing cache"):
        deploy.build(out=tmp_path / "b", engine="tensorrt", timing_cache=str(cache), **SMALL)
