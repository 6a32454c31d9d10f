"""The same checks over every engine, with the real library behind it."""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from calib.placement import ATTENTION_REASON, Placement, Site
from calib.qdq import insert_qdq
from calib.schemes import Range, params_of_range
from deploy.engine_options import EngineOptions
from deploy.engines import ENGINES
from deploy.golden import repeated
from deploy.hardware import INT8_FLAGS, gpu
from deploy.kernels import NOT_FOUND, executed_precisions
from deploy.probe import probe_engine
from deploy.sessions import (
    BuildRequest,
    Configuration,
    Engine,
    Precision,
    Running,
    Shapes,
    int8_configuration,
)
from deploy.tolerance import check_quantized
from export.matmuls import find_matmuls
from export.onnx_file import save_model
from export.passes import clean
from export.passes.simulate import Simulate
from export.reference import open_reference
from tests.contracts.outside import BLOCKER, ROOT, optional_modules, project
from tests.export.graphs import graph_from_text, normal
from trueint8.errors import BuildError, MissingDependency, RunError
from trueint8.progress import Lines, Silence

WIDTH = 64
TEXT = """
tiny (float[batch, t, 64] x) => (float[batch, t, 64] y) {
    [block__up] u = MatMul(x, w0)
    ub = Add(u, b0)
    g = Relu(ub)
    [block__keep] k = MatMul(g, w1)
    kb = Add(k, b1)
    r = Relu(kb)
    [block__down] d = MatMul(r, w2)
    y = Add(d, b2)
}
"""
KEPT = "block.keep"
QUANTIZED = ("block.up", "block.down")
X = normal(9, 2, 8, WIDTH)
SHAPES: Shapes = {"x": ((1, 1, WIDTH), (2, 8, WIDTH), (4, 16, WIDTH))}
RUNNING = Running(1, shapes=SHAPES)
AMAX = 1.8
"""Clips, so that quantized and float results are far apart."""

INSTALL = {
    "onnxruntime": "pip install 'trueint8[cpu]'",
    "openvino": "pip install 'trueint8[cpu]'",
    "tensorrt": "pip install 'trueint8[tensorrt]'   (or: pip install 'tensorrt>=10.8')",
    "tensorrt-rtx": "pip install 'trueint8[tensorrt-rtx]'   "
    "(or: pip install 'tensorrt-rtx-cu13>=1.7,<1.8')",
}


@dataclass(frozen=True, slots=True)
class Built:
    """One engine built from the tiny graph, and what that graph computes."""

    engine: Engine
    folder: Path
    float_graph: Path
    matmuls: dict[str, str]
    simulated: np.ndarray
    floating: np.ndarray

    @property
    def int8(self) -> Configuration:
        """How the INT8 graph runs."""
        configuration = int8_configuration(self.engine)
        assert configuration is not None
        return configuration

    def executed(self, matmuls: dict[str, str]) -> dict[str, str]:
        """Return the audit's word on each matmul."""
        kernels = self.engine.audit(self.folder, self.int8, RUNNING, matmuls)
        return executed_precisions(kernels, matmuls)


def _float_graph() -> ir.Model:
    weights = {f"w{i}": normal(i, WIDTH, WIDTH) / 8 for i in range(3)}
    biases = {f"b{i}": normal(5 + i, WIDTH) for i in range(3)}
    return clean(graph_from_text(TEXT, weights | biases))


def _quantized_graph() -> ir.Model:
    model = _float_graph()
    matmuls = find_matmuls(model, modules_named=False)
    sites = [Site(m, ATTENTION_REASON if m.name == KEPT else "") for m in matmuls]
    placement = Placement(sites)
    assert tuple(m.name for m in placement.quantized) == QUANTIZED
    covered = Range(-AMAX, AMAX)
    insert_qdq(model, placement, {t: params_of_range(t, covered) for t in placement.tensors})
    return model


@cache
def _reference(kind: str) -> np.ndarray:
    model = _float_graph() if kind == "float" else _quantized_graph()
    if kind == "simulated":
        Simulate()(model)
    with open_reference(ir.to_proto(model).SerializeToString()) as run:
        return run({"x": X})["y"]


def _installed(name: str) -> Engine:
    engine: Engine = ENGINES.load(name)
    try:
        engine.version()
    except MissingDependency as err:
        pytest.skip(err.problem)
    if not engine.builds_here:
        pytest.skip(f"{name} does not build here")
    return engine


@pytest.fixture(scope="module", params=ENGINES.names())
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build the tiny graph with one engine."""
    engine = _installed(request.param)
    scratch = tmp_path_factory.mktemp(request.param)
    save_model(_quantized_graph(), scratch / "int8.onnx")
    save_model(_float_graph(), scratch / "float.onnx")
    matmuls = find_matmuls(_float_graph(), modules_named=False)
    folder = scratch / "engine"
    folder.mkdir()
    engine.build(BuildRequest(scratch / "int8.onnx", folder, SHAPES, Silence()))
    return Built(
        engine=engine,
        folder=folder,
        float_graph=scratch / "float.onnx",
        matmuls={m.name: m.returns for m in matmuls},
        simulated=_reference("simulated"),
        floating=_reference("float"),
    )


@pytest.fixture
def session(built: Built) -> Iterator[Any]:
    """Open the INT8 engine, if this machine can run it."""
    if not built.engine.runs_here:
        pytest.skip(f"{built.engine.name} is BUILT here, not run")
    with built.engine.open(built.folder, built.int8, RUNNING) as opened:
        yield opened


def test_an_engine_tells_its_name_version_and_precisions(built: Built) -> None:
    engine = built.engine
    assert ENGINES.load(engine.name) is engine
    assert re.match(r"\d+\.\d+", engine.version())
    offered = engine.floats()
    assert {c.rest for c in offered} <= set(get_args(Precision))
    assert {c.graph for c in offered} <= {"float"}
    assert len(set(offered)) == len(offered)
    assert engine.int8_rest() in get_args(Precision)
    assert ([c.rest for c in offered][:1] == ["fp32"]) == engine.runs_here
    assert engine.options <= {field.name for field in dataclasses.fields(EngineOptions)}
    assert engine.placement.rest in (None, engine.int8_rest())
    assert bool(engine.placement.head_widths) == bool(engine.placement.longest)


def test_an_engine_writes_its_files_into_its_folder(built: Built) -> None:
    assert [p for p in built.folder.rglob("*") if p.is_file() and p.stat().st_size > 0]
    kept = {p.name for p in built.folder.parent.iterdir()}
    assert kept == {"engine", "int8.onnx", "float.onnx"}


def test_the_audit_tells_int8_from_float(built: Built) -> None:
    found = built.executed(built.matmuls)
    assert set(found) == set(built.matmuls)
    assert {found[name] for name in QUANTIZED} == {"int8"}
    assert found[KEPT] in get_args(Precision)


def test_the_audit_invents_nothing(built: Built) -> None:
    names = {"block.other": "", "block": "", "block.upper": "", "up": ""}
    assert set(built.executed(names).values()) == {NOT_FOUND}


def test_the_engine_computes_what_simulation_computes(built: Built, session: Any) -> None:
    actual = session.run({"x": X})["y"]
    assert actual.dtype == np.float32
    graph = built.folder.parent / "int8.onnx"
    repeats = repeated(graph, built.int8.rest, {"x": X}, {"y": built.simulated})
    check = check_quantized(
        "y", actual, built.simulated, built.floating, repeat_db=repeats["y"], logits=False
    )
    assert check.passed, check
    assert not check_quantized(
        "y", built.floating, built.simulated, built.floating, repeat_db=repeats["y"]
    ).passed, "else this says nothing"


def test_runs_of_other_shapes_and_repeated_runs_agree(session: Any) -> None:
    whole = session.run({"x": X})["y"]
    again = session.run({"x": X})["y"]
    np.testing.assert_array_equal(whole, again)
    assert whole is not again
    part = session.run({"x": X[:1, :3]})["y"]
    np.testing.assert_allclose(part, whole[:1, :3], rtol=1e-3, atol=1e-3 * np.abs(whole).max())
    np.testing.assert_array_equal(whole, again)


def test_the_session_tells_its_inputs(session: Any) -> None:
    (only,) = session.inputs
    assert (only.name, only.dtype, only.shape) == ("x", np.dtype(np.float32), (None, None, WIDTH))


def test_every_float_precision_computes_the_float_graph(built: Built) -> None:
    for configuration in built.engine.floats():
        precision = configuration.rest
        with built.engine.open(built.float_graph, configuration, RUNNING) as session:
            actual = session.run({"x": X})["y"]
        error = np.abs(actual - built.floating).max() / np.abs(built.floating).max()
        assert error < (1e-5 if precision == "fp32" else 0.03), precision


Feeds = dict[str, np.ndarray]


@pytest.mark.parametrize(
    ("feeds", "problem", "fix"),
    [
        ({}, "input 'x' is missing; got: nothing", "pass arrays named x"),
        ({"z": X}, "input 'x' is missing; got: z", "pass arrays named x"),
        (
            {"x": X.astype(np.float64)},
            "input 'x' has dtype float64, not float32",
            "convert it with .astype('float32')",
        ),
        ({"x": X.astype(np.int64)}, "input 'x' has dtype int64, not float32", ".astype('float32')"),
    ],
)
def test_a_wrong_input_is_named(session: Any, feeds: Feeds, problem: str, fix: str) -> None:
    with pytest.raises(RunError) as caught:
        session.run(feeds)
    assert caught.value.problem == problem
    assert fix in caught.value.fix


@pytest.mark.parametrize("shape", [(2, 8, WIDTH + 1), (WIDTH,)])
def test_a_wrong_shape_is_a_run_error_and_the_session_lives_on(
    session: Any, shape: tuple[int, ...]
) -> None:
    with pytest.raises(RunError) as caught:
        session.run({"x": np.zeros(shape, np.float32)})
    told = f"input 'x' has shape {shape}, the model takes (any, any, {WIDTH})"
    assert caught.value.problem == told
    assert caught.value.fix == "pass arrays of the model's shapes"
    assert session.run({"x": X})["y"].shape == X.shape


def test_an_engine_that_cannot_run_here_says_so(built: Built) -> None:
    if built.engine.runs_here:
        pytest.skip(f"{built.engine.name} runs here")
    with pytest.raises(RunError) as caught:
        built.engine.open(built.folder, built.int8, RUNNING)
    assert "BUILT, not run" in caught.value.problem
    assert "GPU" in caught.value.fix


def test_the_probe_is_int8(built: Built, tmp_path: Path) -> None:
    assert probe_engine(built.engine.name, tmp_path) == "int8"


def test_an_engine_says_what_its_files_need(built: Built) -> None:
    needs = built.engine.needs(EngineOptions())
    assert set(needs.features) <= set(INT8_FLAGS)
    assert all(re.fullmatch(r"\d+\.\d\+?|built", c) for c in needs.capabilities)
    assert not (needs.capabilities and built.engine.runs_here and not gpu())


@pytest.mark.parametrize("first_closed", [0, 1])
def test_two_engines_in_one_process_do_not_disturb_each_other(
    built: Built, first_closed: int
) -> None:
    if not built.engine.runs_here:
        pytest.skip(f"{built.engine.name} is BUILT here, not run")
    other: Engine = ENGINES.load("openvino" if built.engine.name != "openvino" else "onnxruntime")
    mine = built.engine.open(built.folder, built.int8, RUNNING)
    theirs = other.open(built.float_graph, other.floats()[0], RUNNING)
    sessions = [mine, theirs]
    expected = [session.run({"x": X})["y"] for session in sessions]
    for _ in range(3):
        for session, wanted in zip(sessions, expected, strict=True):
            np.testing.assert_array_equal(session.run({"x": X})["y"], wanted)
    sessions[first_closed].close()
    last = 1 - first_closed
    np.testing.assert_array_equal(sessions[last].run({"x": X})["y"], expected[last])
    sessions[last].close()


def test_files_that_are_no_engine_are_an_error_of_ours(built: Built, tmp_path: Path) -> None:
    if not built.engine.runs_here:
        pytest.skip(f"{built.engine.name} is BUILT here, not run")
    for path in built.folder.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(built.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"this is no engine" * 50)
    with pytest.raises(RunError) as caught:
        built.engine.open(tmp_path, built.int8, RUNNING)
    assert "cannot" in caught.value.problem
    assert "build the bundle again" in caught.value.fix


def test_a_graph_no_engine_knows_is_a_build_error(built: Built, tmp_path: Path) -> None:
    text = "g (float[2, 4] x) => (float[2, 4] y) { [odd] y = Unheard(x) }"
    path = tmp_path / "odd.onnx"
    save_model(graph_from_text(text), path)
    folder = tmp_path / "engine"
    folder.mkdir()
    shapes = {"x": ((2, 4), (2, 4), (2, 4))}
    with pytest.raises(BuildError) as caught:
        built.engine.build(BuildRequest(path, folder, shapes, Silence()))
    assert "Unheard" in caught.value.problem
    assert len(caught.value.fix.split()) > 4


def test_an_engine_whose_files_are_gone_is_an_error_of_ours(built: Built, tmp_path: Path) -> None:
    if not built.engine.runs_here:
        pytest.skip(f"{built.engine.name} is BUILT here, not run")
    with pytest.raises(RunError, match="cannot"):
        built.engine.open(tmp_path, built.int8, RUNNING)


ABSENT = (
    BLOCKER
    + """
from deploy.engine_options import EngineOptions
from deploy.engines import ENGINES
from trueint8.errors import MissingDependency
engine = ENGINES.load(sys.argv[2])
try:
    engine.version()
except MissingDependency as err:
    print(err.problem)
    print(err.fix)
"""
)


@pytest.mark.parametrize("name", ENGINES.names())
def test_without_its_library_an_engine_gives_the_install_command(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ABSENT, ",".join(optional_modules()), name],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    problem, fix = done.stdout.splitlines()
    assert problem.startswith(f"the engine {name} needs the package ")
    assert fix == INSTALL[name]
    extra = re.findall(r"trueint8\[([a-z-]+)\]", fix)
    assert extra and set(extra) <= set(project()["optional-dependencies"])


def test_progress_is_shown(built: Built, tmp_path: Path) -> None:
    stream = io.StringIO()
    source = built.folder.parent / "int8.onnx"
    built.engine.build(BuildRequest(source, tmp_path, SHAPES, Lines(stream)))
    assert stream.getvalue().startswith(f"build {built.engine.name} ...\n")


def test_onnx_runtime_is_given_unsigned_activations(built: Built) -> None:
    if built.engine.name != "onnxruntime":
        pytest.skip("of ONNX Runtime only")
    graph = onnx.load(str(built.folder / "model.onnx")).graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    zeros = [arrays[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"]
    assert zeros
    assert {(zero.dtype.name, int(zero)) for zero in zeros} == {("uint8", 128)}
