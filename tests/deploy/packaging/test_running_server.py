"""What a server tells of itself, beside what a repository needs: real answers and recorded ones."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import onnx
import pytest
from onnx import helper

from deploy.bundle import Bundle
from deploy.packaging import server as told
from deploy.packaging.checking import _formats, _intermediate
from deploy.packaging.record import read_record
from deploy.packaging.releases import RELEASES
from deploy.packaging.server import Server, asked_server
from tests.deploy.packaging import tritonserver
from tests.deploy.running import run_here

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

GPU = "GPU-aaaaaaaa-0000-1111-2222-bbbbbbbbbbbb"
METRICS = f"""# HELP nv_gpu_utilization GPU utilization rate [0.0 - 1.0)
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{{gpu_uuid="{GPU}"}} 0.07
# HELP nv_gpu_memory_total_bytes GPU total memory, in bytes
# TYPE nv_gpu_memory_total_bytes gauge
nv_gpu_memory_total_bytes{{gpu_uuid="{GPU}"}} 25769803776
"""
"""In the form that Triton's documentation gives: no GPU is here to record one."""

Answering = Callable[..., str]


@pytest.fixture
def answering() -> Iterator[Answering]:
    """Return what serves recorded answers, of the server and of its metrics, at a URL."""
    running: list[HTTPServer] = []

    def serve(version: str, metrics: str, name: str = "triton") -> str:
        metadata = json.dumps({"name": name, "version": version, "extensions": []})
        answers = {"/v2": metadata, "/metrics": metrics}

        class Recorded(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = answers.get(self.path)
                self.send_response(404 if body is None else 200)
                raw = (body or "").encode()
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: object) -> None:
                del format, args

        server = HTTPServer(("127.0.0.1", 0), Recorded)
        running.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in running:
        server.shutdown()
        server.server_close()


def _no_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "ask_driver", lambda fields: None)


def test_a_version_tells_the_release_and_metrics_name_gpus(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_gpu_here(monkeypatch)
    url = answering("2.73.0", METRICS)
    found, notes = asked_server([url], f"{url}/metrics", Server())
    assert found.release is RELEASES["26.09"] and found.capabilities == ()
    assert notes[0] == "the server is Triton 2.73.0, release 26.09"
    assert notes[1] == f"its GPUs: {GPU} (24.0 GiB), of unknown compute capability"
    found, notes = asked_server([url], f"{url}/nothing", Server(capabilities=("8.9",)))
    assert found.capabilities == ("8.9",) and "does not answer (--metrics-url)" in notes[1]
    _, notes = asked_server([url], "http://host/with a blank", Server())
    assert "does not answer (--metrics-url)" in notes[1]
    url = answering("2.60.0", "")
    found, notes = asked_server([url], f"{url}/metrics", Server())
    assert found.release is None and "nothing is known" in notes[0] and "name none" in notes[1]
    found, notes = asked_server([answering("0.1", "", "trueint8")], None, Server())
    assert found == Server() and notes == ["the server is trueint8 0.1, of which nothing is known"]


def test_gpus_that_are_of_this_machine_have_a_known_capability(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = answering("2.73.0", METRICS)
    monkeypatch.setattr(told, "ask_driver", lambda fields: f"GPU-other, 9.0\n{GPU}, 8.9")
    found, notes = asked_server([url], f"{url}/metrics", Server())
    assert found.capabilities == ("8.9",) and notes[1].endswith("compute capability 8.9")
    found, _ = asked_server([url], f"{url}/metrics", Server(capabilities=("9.0",)))
    assert found.capabilities == ("9.0",), "a flag counts more"


def test_formats_are_those_that_the_server_reads() -> None:
    packaged, old = RELEASES["26.09"], RELEASES["24.10"]
    assert Server().reads(packaged) is packaged
    assert Server(release=old).reads(packaged) is old
    assert Server({"onnxruntime": "1.31.0"}, release=old).reads(old) is packaged
    assert Server({"onnxruntime": "1.20.1"}).reads(packaged) is RELEASES["25.02"]
    assert Server({"onnxruntime": "1.2"}).reads(packaged) is old, "nothing earlier is known"
    assert Server(release=packaged).openvino() == packaged.openvino
    assert Server({"openvino": "2027.1"}, release=packaged).openvino() == "2027.1"


@pytest.fixture(scope="module")
def every_engine(built: Callable[[str], Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier of each engine that is installed, without texts."""
    bundle, out = built("bert-classes"), tmp_path_factory.mktemp("engines") / "repo"
    for engine in bundle.manifest.engines:
        words = ("--engine", engine, "--name", engine, "--no-text", "-o", out)
        assert run_here("package", bundle.path, *words).code == 0
    own = ("--engine", "onnxruntime", "--backend", "python", "--name", "own", "--no-text")
    assert run_here("package", bundle.path, *own, "-o", out).code == 0
    return out


def test_what_does_not_fit_the_server_is_found_before_it_is_asked(
    every_engine: Path, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server here knows no model: had it been asked for one, the exit code would be 8."""
    monkeypatch.setattr(told, "ask_driver", lambda fields: f"{GPU}, 6.1")
    url = answering("2.73.0", METRICS)
    words = ("--url", url, "--metrics-url", f"{url}/metrics", "--json")
    ended = run_here("verify", every_engine, *words, "--server-version", "onnxruntime=1.1.0")
    assert ended.code == 1, ended.err
    models = {model["model"]: model for model in ended.json["models"]}
    assert "the server has 1.1.0" in models["own"]["problems"][0]
    if "tensorrt-rtx" in models:
        plan = models["tensorrt-rtx"]
        assert "the server has 6.1" in plan["problems"][0]
        (unknown,) = plan["unchecked"]
        assert "--server-version tensorrt-rtx=VERSION" in unknown
    assert ended.json["server"] == [] and len(ended.json["notes"]) == 2


def test_an_ir_later_than_the_servers_openvino_is_found(every_engine: Path) -> None:
    """As if packaged for a Triton that has this OpenVINO, and checked against others."""
    record = read_record(every_engine / "openvino" / "1").model_copy(update={"loads": "model.xml"})
    own = record.engine_version
    assert list(_intermediate(record, own)) == []
    (problem,) = _intermediate(record, "2024.1.0")
    assert f"of OpenVINO {own}, and the server has 2024.1.0" in problem
    (unknown,) = _intermediate(record, "")
    assert unknown.startswith("?") and "--server-version openvino=" in unknown


def test_a_graph_later_than_the_servers_formats_is_found(tmp_path: Path) -> None:
    file, old = tmp_path / "model.onnx", RELEASES["24.10"]
    graph = helper.make_graph([], "g", [], [])
    for opset, version, found in ((21, 10, 0), (23, 10, 1), (21, 11, 1), (23, 11, 2)):
        opsets = [helper.make_opsetid("", opset)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=version), str(file))
        problems = list(_formats(file, old))
        assert len(problems) == found and all("Triton 24.10 reads" in p for p in problems)


@pytest.mark.triton
def test_the_real_server_tells_its_release_and_no_gpu(
    server: tritonserver.Server, repository: Path
) -> None:
    metrics = ("--metrics-url", f"http://127.0.0.1:{server.metrics}/metrics")
    for url in server.urls:
        ended = run_here("verify", repository, "--url", url, *metrics, "--json")
        assert ended.code == 0, ended.err
        version, gpus = ended.json["notes"]
        assert version == "the server is Triton 2.51.0, release 24.10"
        assert "its metrics name none" in gpus
    unchecked = {m["model"]: m["unchecked"] for m in ended.json["models"]}
    assert unchecked["int8"] == [], "graphs were checked against 24.10"
    (engine,) = unchecked["own"]
    assert "--server-version onnxruntime=VERSION" in engine
