"""Every name of TensorRT, cuda-python and pycuda that the source uses is there, and so used.

Checked against the bindings themselves where they can be had: the installed TensorRT-RTX, the
TensorRT 11.4 and cuda-python wheels unpacked to a folder and imported there, with stubs in place
of TensorRT's shared libraries; and against the lists in ``api/``, which need nothing.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from deploy.engine_options import GPU_TARGETS
from tests.contracts.library_use import MODULE, Use, misfit, uses_of
from tests.contracts.outside import ROOT

LISTS = Path(__file__).parent / "api"
SHARED = sorted((ROOT / "deploy" / "nvidia").glob("*.py"))
TENSORRT = ROOT / "deploy" / "engines" / "tensorrt.py"
RTX = ROOT / "deploy" / "engines" / "tensorrt_rtx.py"
FILES = {"tensorrt": [*SHARED, TENSORRT], "tensorrt_rtx": [*SHARED, RTX]}
WHEELS = {
    "tensorrt": "tensorrt-cu13-bindings==11.4.*",
    "cuda-13": "cuda-bindings==13.*",
    "cuda-12": "cuda-bindings==12.9.*",
    "pathfinder": "cuda-pathfinder>=1.4",
    "nvml": "nvidia-ml-py>=12.560",
}
SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry", "getPluginRegistry", "initLibNvInferPlugins",
    "getNvOnnxParserVersion",
)  # fmt: skip
LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")


@cache
def listed(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((LISTS / f"{name}.json").read_text("utf-8"))
    return found


@cache
def uses(library: str) -> list[Use]:
    name = {"tensorrt": "tensorrt-11.4", "tensorrt_rtx": "tensorrt-rtx-1.7"}[library]
    return uses_of(FILES[library], listed(name)["classes"])


def misfits(library: str, api: dict[str, Any]) -> list[str]:
    """Return what bindings do not have, of what an engine uses without asking for it."""
    found = [
        misfit(use, api["classes"], api["others"]) for use in uses(library) if not use.optional
    ]
    return [text for text in found if text]


def unpacked(requirement: str, folder: Path) -> Path:
    """Download a wheel for this Python and unpack it; nothing is installed."""
    line = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    line += ["--disable-pip-version-check", "--dest", str(folder / "wheels"), requirement]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{requirement} cannot be downloaded: {done.stderr.strip().splitlines()[-1]}")
    for wheel in (folder / "wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


def stubs(folder: Path) -> Path:
    """Compile libraries that define what the bindings need at import, each returning nothing."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler for the stub libraries")
    folder.mkdir()
    source = folder / "stub.c"
    source.write_text("".join(f"void *{s}(void) {{ return 0; }}\n" for s in SYMBOLS), "utf-8")
    for name in LIBRARIES:
        file = f"{name}.so.11"
        line = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", str(folder / file)]
        subprocess.run([*line, str(source)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def bindings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the real TensorRT 11.4 bindings can be imported as tensorrt."""
    folder = unpacked(WHEELS["tensorrt"], tmp_path_factory.mktemp("bindings"))
    (folder / "tensorrt.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n", "utf-8"
    )
    return {"LD_LIBRARY_PATH": str(stubs(folder / "stubs")), "PYTHONPATH": f"{folder}:{ROOT}"}


def in_process(environment: dict[str, str], *line: str) -> str:
    done = subprocess.run(
        [sys.executable, *line],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        check=False,
    )
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.mark.parametrize("library", FILES)
def test_the_search_finds_what_is_used(library: str) -> None:
    found = {(use.owner, use.member) for use in uses(library)}
    assert len(found) > 70
    assert {
        (MODULE, "Builder"),
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "set_memory_pool_limit"),
        ("IExecutionContext", "execute_async_v3"),
        ("IExecutionContext", "set_device_memory"),
        ("ICudaEngine", "get_tensor_profile_shape"),
        ("IOptimizationProfile", "set_shape"),
        ("IProgressMonitor", "step_complete"),
        ("IProfiler", "report_layer_time"),
        ("ParserError", "node_operator"),
        ("ProfilingVerbosity", "DETAILED"),
        ("Runtime", "deserialize_cuda_engine"),
    } <= found
    own = {
        "tensorrt": {("EngineInspector", "get_engine_information"), ("ITimingCache", "combine")},
        "tensorrt_rtx": {("IRuntimeCache", "serialize"), ("Runtime", "get_engine_validity")},
    }
    assert own[library] <= found


@pytest.mark.parametrize("library", FILES)
def test_no_use_hides_behind_a_value_of_unknown_type(library: str) -> None:
    """An attribute called as a member of the library, on something whose type is not known."""
    name = {"tensorrt": "tensorrt-11.4", "tensorrt_rtx": "tensorrt-rtx-1.7"}[library]
    members = {m for c in listed(name)["classes"].values() for m in c if "_" in m.strip("_")}
    known = {use.member for use in uses(library)}
    for path in FILES[library]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in members:
                assert node.attr in known, f"{path.name}:{node.lineno}: {node.attr}: annotate it"


@pytest.mark.parametrize(
    ("library", "name"),
    [("tensorrt", "tensorrt-11.4"), ("tensorrt_rtx", "tensorrt-rtx-1.7")],
)
def test_every_use_fits_the_list(library: str, name: str) -> None:
    assert misfits(library, listed(name)) == []


def test_every_use_is_there_in_tensorrt_10() -> None:
    """``api/tensorrt-10.json`` has names only, read in the sources of the bindings."""
    api = listed("tensorrt-10")["classes"]
    missing = []
    for use in uses("tensorrt"):
        there = use.member in api if use.owner == MODULE else use.member in api.get(use.owner, ())
        if not there and not use.optional and use.member != "__init__":
            missing.append(f"{use.where}: {use.owner}.{use.member}")
    assert missing == []


PLANTED = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import tensorrt as trt

def build(library, config: trt.IBuilderConfig):
    builder = library.Builder(None)
    config.set_flag(library.BuilderFlag.{flag})
    network = builder.create_network({arguments})
    network.{member}
    class Own(library.ILogger):
        def {method}(self, severity, message):
            pass
    return library.{name}(Own())
"""
SOUND = {
    "flag": "TF32", "arguments": "1", "member": "num_inputs", "method": "log", "name": "Runtime",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, ""),
        ({"flag": "INT8"}, "BuilderFlag has no INT8"),
        ({"arguments": "1, 2"}, "Builder.create_network takes"),
        ({"arguments": "flag=1"}, "Builder.create_network takes"),
        ({"arguments": "flags=1"}, ""),
        ({"member": "num_outputz"}, "INetworkDefinition has no num_outputz"),
        ({"method": "log_line"}, "ILogger has no log_line"),
        ({"name": "IInt8EntropyCalibrator2"}, "the library has no IInt8EntropyCalibrator2"),
    ],
)
def test_a_planted_mistake_is_found(change: dict[str, str], told: str, tmp_path: Path) -> None:
    path = tmp_path / "planted.py"
    path.write_text(PLANTED.format(**{**SOUND, **change}), "utf-8")
    api = listed("tensorrt-11.4")
    found = [misfit(u, api["classes"], api["others"]) for u in uses_of([path], api["classes"])]
    texts = [text for text in found if text]
    assert (len(texts) == 1 and told in texts[0]) if told else texts == []


def test_every_use_fits_the_installed_tensorrt_rtx() -> None:
    library = pytest.importorskip("tensorrt_rtx")
    from tests.contracts.library_listing import listing

    found = listing(library)
    assert misfits("tensorrt_rtx", found) == []
    assert found["classes"] == listed("tensorrt-rtx-1.7")["classes"], "the list is of this version"
    targets = {name.lower() for name in library.ComputeCapability.__members__}
    assert targets - {"none", "current"} == set(GPU_TARGETS)


def test_every_use_fits_the_real_tensorrt_bindings(bindings: dict[str, str]) -> None:
    told = in_process(bindings, "-m", "tests.contracts.library_listing", "tensorrt_bindings")
    found = json.loads(told)
    assert found["version"].startswith("11.4.")
    assert misfits("tensorrt", found) == []
    assert found["classes"] == listed("tensorrt-11.4")["classes"]
    assert set(_levels()) <= set(found["classes"]["HardwareCompatibilityLevel"])


def _levels() -> list[str]:
    from deploy.engines.tensorrt import LEVELS

    return list(LEVELS.values())


ENGINE_WITHOUT_GPU = """
from pathlib import Path
from deploy.engines.tensorrt import ENGINE
from deploy.nvidia.library import log_lines, log_of
from deploy.engine_choice import choose_engines
from deploy.sessions import BuildRequest, Configuration, Running
from trueint8.errors import TrueInt8Error
from trueint8.progress import Silence
print(ENGINE.version(), ENGINE.runs_here, ENGINE.builds_here, ENGINE.floats())
print(choose_engines("auto")[0], "tensorrt" in choose_engines("all"))
request = BuildRequest(Path("x.onnx"), Path("."), {}, Silence())
for act in (
    lambda: ENGINE.build(request),
    lambda: ENGINE.open(Path("."), Configuration("int8", "fp16"), Running(1)),
    lambda: ENGINE.audit(Path("."), Configuration("int8", "fp16"), Running(1), {}),
    lambda: __import__("deploy.nvidia.building").nvidia.building.compile_plan(
        ENGINE, Path("x.onnx"), {}, request.options, print),
):
    try:
        act()
    except TrueInt8Error as err:
        print(type(err).__name__, err.problem.splitlines()[0])
log = log_of(ENGINE.library())
with log_lines(ENGINE.library()) as lines:
    log.log(ENGINE.library().ILogger.ERROR, "kept")
    log.log(ENGINE.library().ILogger.INFO, "dropped")
print(lines)
"""


def test_the_engine_on_the_real_bindings_without_a_gpu(bindings: dict[str, str]) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("there may be a GPU")
    told = in_process(bindings, "-W", "error", "-c", ENGINE_WITHOUT_GPU).splitlines()
    assert told == [
        "11.4.0.106 False False []",
        "openvino False",
        "BuildError TensorRT builds on the GPU that it builds for, and there is none here",
        "RunError . is BUILT, not run: a TensorRT plan needs the NVIDIA GPU it was built for",
        "RunError . is BUILT, not run: a TensorRT plan needs the NVIDIA GPU it was built for",
        "BuildError TensorRT cannot start a build:",
        "['kept']",
    ]


def test_doctor_on_the_real_bindings_without_a_gpu(bindings: dict[str, str]) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("there may be a GPU")
    found = json.loads(in_process(bindings, "-m", "deploy", "doctor", "--json"))
    engines = {e["engine"]: e for e in found["engines"]}
    assert engines["tensorrt"]["version"] == "11.4.0.106"
    assert not engines["tensorrt"]["builds"] and not engines["tensorrt"]["runs"]
    assert engines["tensorrt"]["note"] == (
        "building and running need an NVIDIA GPU, and none is found"
    )
    assert found["problems"] == []


def _names_of(module: str, path: Path) -> set[str]:
    """Return the dotted names that a file reads from an imported module."""
    text = path.read_text("utf-8")
    return {m for m in re.findall(rf"\b{module}((?:\.[A-Za-z_]\w*)+)", text)}


CUDA_NAMES = """
import json, sys
from cuda.bindings import runtime as cuda
found = {}
for name in json.loads(sys.argv[1]):
    thing = cuda
    for part in name.strip(".").split("."):
        thing = getattr(thing, part)
    found[name] = (getattr(thing, "__doc__", None) or "").splitlines()[:1]
print(json.dumps(found))
code, = cuda.cudaSetDevice(0)
print(type(code).__name__, code.name, int(code) != 0, len(cuda.cudaMalloc(1)))
text = cuda.cudaGetErrorString(code)
print(len(text), type(text[1]).__name__)
from deploy.nvidia.device import open_device
from trueint8.errors import RunError
try:
    open_device()
except RunError as err:
    print(err.problem)
"""


@pytest.mark.parametrize("version", ["cuda-13", "cuda-12"])
def test_every_name_of_cuda_python_is_there(version: str, tmp_path: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("there may be a GPU")
    folder = unpacked(WHEELS[version], tmp_path)
    unpacked(WHEELS["pathfinder"], folder)
    path = ROOT / "deploy" / "nvidia" / "with_cuda_python.py"
    names = sorted(n for n in _names_of("cuda", path) if n.startswith(".cuda"))
    assert len(names) > 25
    environment = {"PYTHONPATH": f"{folder}:{ROOT}"}
    told = in_process(environment, "-c", CUDA_NAMES, json.dumps(names)).splitlines()
    signatures = json.loads(told[0])
    tree = ast.parse(path.read_text("utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    for call in calls:
        name = ast.unparse(call.func)
        if name.removeprefix("cuda") in signatures:
            signature = signatures[name.removeprefix("cuda")][0]
            inside = signature[signature.index("(") + 1 : -1]
            assert len(call.args) == len([p for p in inside.split(",") if p.strip()]), signature
    assert told[1] == "cudaError_t cudaErrorInsufficientDriver True 2"
    assert told[2] == "2 bytes"
    assert told[3].startswith("CUDA failed: cudaErrorInsufficientDriver: ")


def test_every_name_of_pycuda_is_there() -> None:
    if importlib.util.find_spec("pycuda") is None:
        pytest.skip("pycuda is not installed; it has no wheel")
    driver = importlib.import_module("pycuda.driver")
    for name in _names_of("cuda", ROOT / "deploy" / "nvidia" / "with_pycuda.py"):
        thing: Any = driver
        for part in name.strip(".").split("."):
            assert hasattr(thing, part), name
            thing = getattr(thing, part)


NVML_NAMES = """
import json, sys
import pynvml
for name in json.loads(sys.argv[1]):
    assert hasattr(pynvml, name.strip(".").split(".")[0]), name
process = pynvml.c_nvmlProcessInfo_t
print({field[0] for field in process._fields_} >= {"pid", "usedGpuMemory"})
from deploy.nvidia.device import process_memory
print(process_memory())
"""


def test_every_name_of_nvml_is_there(tmp_path: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("there may be a GPU")
    folder = unpacked(WHEELS["nvml"], tmp_path)
    names = sorted(_names_of("pynvml", ROOT / "deploy" / "nvidia" / "device.py"))
    assert len(names) > 4
    environment = {"PYTHONPATH": f"{folder}:{ROOT}"}
    told = in_process(environment, "-W", "error", "-c", NVML_NAMES, json.dumps(names))
    assert told.split() == ["True", "None"]
