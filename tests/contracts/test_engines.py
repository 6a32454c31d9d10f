"""The same checks over every engine, with the real library behind it."""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploy.engine_options import EngineOptions
from deploy.engines import ENGINES
from deploy.golden import repeated
from deploy.hardware import INT8_FLAGS, gpu
from deploy.kernels import NOT_FOUND, executed_precisions
from deploy.probe import probe_engine
from deploy.sessions import BuildRequest, Configuration, Engine, Precision, int8_configuration
from deploy.tolerance import check_float, check_quantized
from export.onnx_file import save_model
from tests.contracts.outside import BLOCKER, ROOT, optional_modules, project
from tests.contracts.subjects import Feeds, Subject, subject_of
from tests.export.graphs import graph_from_text
from trueint8.errors import BuildError, IntegrityError, MissingDependency, RunError
from trueint8.progress import Lines, Silence

INSTALL = {
    "onnxruntime": "pip install 'trueint8[cpu]'",
    "openvino": "pip install 'trueint8[cpu]'",
    "tensorrt": "pip install 'trueint8[tensorrt]'   (or: pip install 'tensorrt>=10.8')",
    "torch": "pip install 'trueint8[export]'",
    "torch-int8": "pip install 'trueint8[export]'",
    "tensorrt-rtx": "pip install 'trueint8[tensorrt-rtx]'   "
    "(or: pip install 'tensorrt-rtx-cu13>=1.7,<1.8')",
}


@dataclass(frozen=True, slots=True)
class Built:
    """One engine, built."""

    engine: Engine
    folder: Path
    subject: Subject

    @property
    def int8(self) -> Configuration | None:
        """How the INT8 graph runs."""
        return int8_configuration(self.engine)

    @property
    def usual(self) -> Configuration:
        """How it runs in INT8, or, without INT8, in float."""
        return self.int8 or self.engine.floats()[0]

    @property
    def expected(self) -> np.ndarray:
        """What it computes as usual, but for rounding."""
        return self.subject.simulated if self.int8 else self.subject.floating

    def executed(self, matmuls: dict[str, str]) -> dict[str, str]:
        """Return the audit's word on each matmul."""
        kernels = self.engine.audit(self.folder, self.usual, self.subject.running, matmuls)
        return executed_precisions(kernels, matmuls)


def _installed(name: str) -> Engine:
    engine: Engine = ENGINES.load(name)
    try:
        engine.version()
    except MissingDependency as err:
        pytest.skip(err.problem)
    return engine


COMPILED_TWICE = "torch"
"""Its session is that of torch-int8, which runs the same checks in every run of the tests."""
PARAMETERS = [
    pytest.param(name, marks=pytest.mark.slow) if name == COMPILED_TWICE else name
    for name in ENGINES.names()
]


@pytest.fixture(scope="module", params=PARAMETERS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build what the engine takes."""
    engine = _installed(request.param)
    subject = subject_of(engine, tmp_path_factory.mktemp(request.param))
    folder = tmp_path_factory.mktemp("bundle") / "engine" / engine.name
    folder.mkdir(parents=True)
    engine.build(subject.request(folder, Silence()))
    return Built(engine, folder, subject)


@pytest.fixture(scope="module")
def session(built: Built) -> Iterator[Any]:
    """Open the engine, if this machine can run it."""
    if not built.engine.runs_here:
        pytest.skip(f"{built.engine.name} is BUILT here, not run")
    with built.engine.open(built.folder, built.usual, built.subject.running) as opened:
        yield opened


def _output(session: Any, feeds: Feeds) -> np.ndarray:
    (output,) = session.run(feeds).values()
    assert isinstance(output, np.ndarray)
    return output


def test_an_engine_tells_its_name_version_and_precisions(built: Built) -> None:
    engine = built.engine
    assert ENGINES.load(engine.name) is engine
    assert re.match(r"\d+\.\d+", engine.version())
    offered = engine.floats()
    assert {c.rest for c in offered} <= set(get_args(Precision))
    assert {c.graph for c in offered} <= {"float"}
    assert len(set(offered)) == len(offered)
    assert engine.int8_rest() in (*get_args(Precision), None)
    assert ([c.rest for c in offered][:1] == ["fp32"]) == engine.runs_here
    assert engine.options <= {field.name for field in dataclasses.fields(EngineOptions)}
    assert engine.placement.rest in (None, engine.int8_rest())
    assert bool(engine.placement.head_widths) == bool(engine.placement.longest)


def test_an_engine_writes_its_files_into_its_folder(built: Built) -> None:
    assert [p for p in built.folder.rglob("*") if p.is_file() and p.stat().st_size > 0]
    kept = {p.name for p in built.subject.folder.iterdir()}
    assert kept - {"checkpoint"} == {"int8.onnx", "float.onnx"}
    assert [p.name for p in built.folder.parent.iterdir()] == [built.engine.name]


def test_the_audit_tells_int8_from_float(built: Built) -> None:
    found = built.executed(built.subject.matmuls)
    assert set(found) == set(built.subject.matmuls)
    wanted = {"int8"} if built.int8 else {"fp32"}
    assert {found[name] for name in built.subject.quantized} == wanted
    assert {found[name] for name in built.subject.kept} <= set(get_args(Precision))


def test_the_audit_of_the_float_graph_tells_no_int8(built: Built) -> None:
    subject, engine = built.subject, built.engine
    path = built.folder if engine.runs_checkpoint else subject.float_graph
    names = {n: subject.matmuls[n] for n in (*subject.kept, *subject.quantized)}
    kernels = engine.audit(path, Configuration("float", "fp32"), subject.running, names)
    assert set(executed_precisions(kernels, names).values()) == {"fp32"}


def test_the_audit_invents_nothing(built: Built) -> None:
    names = dict.fromkeys(built.subject.strange, "")
    assert set(built.executed(names).values()) == {NOT_FOUND}


def test_the_engine_computes_what_simulation_computes(built: Built, session: Any) -> None:
    simulated, floating = built.subject.simulated, built.subject.floating
    actual = _output(session, built.subject.feeds)
    assert actual.dtype == np.float32
    if built.int8 is None:
        assert check_float("y", actual, floating, built.usual.rest).passed
        return
    graph = built.subject.folder / "int8.onnx"
    again = repeated(graph, built.int8.rest, built.subject.feeds, built.subject.outputs)
    (repeat,) = again.values()
    check = check_quantized("y", actual, simulated, floating, repeat_db=repeat)
    assert check.passed, check
    unquantized = check_quantized("y", floating, simulated, floating, repeat_db=repeat)
    assert not unquantized.passed, "else this says nothing"


def test_runs_of_other_shapes_and_repeated_runs_agree(built: Built, session: Any) -> None:
    feeds, cut = built.subject.feeds, built.subject.cut
    whole = _output(session, feeds)
    again = _output(session, feeds)
    np.testing.assert_array_equal(whole, again)
    assert whole is not again
    part = _output(session, {name: array[cut] for name, array in feeds.items()})
    np.testing.assert_allclose(part, whole[cut], rtol=1e-3, atol=1e-3 * np.abs(whole).max())
    np.testing.assert_array_equal(whole, again)


def test_threads_get_the_answers_that_one_gets(built: Built, session: Any) -> None:
    feeds = built.subject.feeds
    name = next(iter(feeds))
    rows = [{n: a[[row % len(a)]] for n, a in feeds.items()} for row in range(8)]
    inputs = [feeds, *rows] * 3
    expected = [_output(session, one) for one in inputs]
    start = threading.Barrier(4)

    def run(shift: int) -> list[np.ndarray]:
        start.wait(60)
        return [_output(session, inputs[(n + shift) % len(inputs)]) for n in range(len(inputs))]

    with ThreadPoolExecutor(4) as pool:
        for shift, found in enumerate(pool.map(run, range(4))):
            for n, answer in enumerate(found):
                np.testing.assert_array_equal(answer, expected[(n + shift) % len(inputs)])
    with pytest.raises(RunError):
        session.run({name: feeds[name][0]})
    np.testing.assert_array_equal(_output(session, feeds), expected[0])


def test_the_session_tells_its_inputs(built: Built, session: Any) -> None:
    told = {i.name: (i.dtype, i.shape[:2], i.shape[2:]) for i in session.inputs}
    feeds = built.subject.feeds
    assert told == {n: (a.dtype, (None, None), a.shape[2:]) for n, a in feeds.items()}


def test_every_float_precision_computes_the_float_graph(built: Built) -> None:
    path = built.folder if built.engine.runs_checkpoint else built.subject.float_graph
    floating = built.subject.floating
    for configuration in built.engine.floats():
        with built.engine.open(path, configuration, built.subject.running) as session:
            actual = _output(session, built.subject.feeds)
        error = np.abs(actual - floating).max() / np.abs(floating).max()
        assert error < (1e-5 if configuration.rest == "fp32" else 0.03), configuration


@pytest.mark.parametrize("given", ["nothing", "z"])
def test_a_missing_input_is_named(built: Built, session: Any, given: str) -> None:
    names = list(built.subject.feeds)
    with pytest.raises(RunError) as caught:
        session.run({"z": built.subject.feeds[names[0]]} if given == "z" else {})
    assert caught.value.problem == f"input {names[0]!r} is missing; got: {given}"
    assert f"pass arrays named {', '.join(names)}" in caught.value.fix


@pytest.mark.parametrize("dtype", [np.float64, np.int16])
def test_an_input_of_another_type_is_named(built: Built, session: Any, dtype: Any) -> None:
    feeds = built.subject.feeds
    name, right = next((name, array.dtype.name) for name, array in feeds.items())
    with pytest.raises(RunError) as caught:
        session.run({**feeds, name: feeds[name].astype(dtype)})
    wrong = np.dtype(dtype).name
    assert caught.value.problem == f"input {name!r} has dtype {wrong}, not {right}"
    assert f"convert it with .astype('{right}')" in caught.value.fix


def test_a_wrong_shape_is_a_run_error_and_the_session_lives_on(built: Built, session: Any) -> None:
    feeds = built.subject.feeds
    name = next(iter(feeds))
    for shape in built.subject.wrong:
        with pytest.raises(RunError, match="the model takes"):
            session.run({**feeds, name: np.zeros(shape, feeds[name].dtype)})
        assert _output(session, feeds).shape == built.expected.shape


def test_a_session_of_kernel_times_gives_those_of_the_audit(built: Built) -> None:
    if not built.engine.runs_checkpoint:
        pytest.skip(f"{built.engine.name} has its own test of times")
    running = dataclasses.replace(built.subject.running, profiled=True)
    kernels = built.engine.audit(built.folder, built.usual, running, built.subject.matmuls)
    with built.engine.open(built.folder, built.usual, running) as session:
        with pytest.raises(RunError):
            session.kernel_times()
        for _ in range(2):
            session.run(built.subject.feeds)
        times = session.kernel_times()
    assert all(time > 0 for time in times.values())
    assert {k.name for k in kernels if k.precision} <= set(times)


def test_an_engine_that_cannot_run_here_says_so(built: Built) -> None:
    if built.engine.runs_here:
        pytest.skip(f"{built.engine.name} runs here")
    with pytest.raises(RunError) as caught:
        built.engine.open(built.folder, built.usual, built.subject.running)
    assert "BUILT, not run" in caught.value.problem
    assert "GPU" in caught.value.fix


def test_the_probe_is_int8(built: Built, tmp_path: Path) -> None:
    if built.engine.runs_checkpoint:
        with pytest.raises(BuildError, match="runs the modules of a checkpoint"):
            probe_engine(built.engine.name, tmp_path)
    else:
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
    subject = built.subject
    sessions = [
        built.engine.open(built.folder, built.usual, subject.running),
        other.open(subject.float_graph, other.floats()[0], subject.running),
    ]
    expected = [_output(session, subject.feeds) for session in sessions]
    for _ in range(3):
        for session, wanted in zip(sessions, expected, strict=True):
            np.testing.assert_array_equal(_output(session, subject.feeds), wanted)
    sessions[first_closed].close()
    last = 1 - first_closed
    np.testing.assert_array_equal(_output(sessions[last], subject.feeds), expected[last])
    sessions[last].close()


def test_files_that_are_no_engine_are_an_error_of_ours(built: Built, tmp_path: Path) -> None:
    if not built.engine.runs_here:
        pytest.skip(f"{built.engine.name} is BUILT here, not run")
    for path in built.folder.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(built.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"this is no engine" * 50)
    with pytest.raises((RunError, IntegrityError)) as caught:
        built.engine.open(tmp_path, built.usual, built.subject.running)
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
    assert ("a bare graph" if built.engine.runs_checkpoint else "Unheard") in caught.value.problem
    assert len(caught.value.fix.split()) > 4


def test_an_engine_whose_files_are_gone_is_an_error_of_ours(built: Built, tmp_path: Path) -> None:
    if not built.engine.runs_here:
        pytest.skip(f"{built.engine.name} is BUILT here, not run")
    with pytest.raises((RunError, BuildError, IntegrityError)):
        built.engine.open(tmp_path, built.usual, built.subject.running)


ABSENT = (
    BLOCKER
    + """
from deploy.engine_options import EngineOptions
from deploy.engines import ENGINES
from deploy.golden import repeated
from deploy.hardware import INT8_FLAGS, gpu
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
    built.engine.build(built.subject.request(tmp_path, Lines(stream)))
    assert stream.getvalue().startswith(f"build {built.engine.name} ...\n")


def test_onnx_runtime_is_given_unsigned_activations(built: Built) -> None:
    if built.engine.name != "onnxruntime":
        pytest.skip("of ONNX Runtime only")
    graph = onnx.load(str(built.folder / "model.onnx")).graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    zeros = [arrays[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"]
    assert zeros
    assert {(zero.dtype.name, int(zero)) for zero in zeros} == {("uint8", 128)}
