"""The Ray backend: what it asks of a cluster, on a stand-in for it and on a real one."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deploy.study.backends.ray import RayBackend, timed_demand
from deploy.study.jobs import Job, Processes
from deploy.study.state import Step
from tests.deploy.running import STAGING, run_here
from tests.deploy.studying import overlaps, spans, statuses, until, write_study
from trueint8.errors import ConfigError

CPU = {"Alive": True, "Resources": {"CPU": 8.0, "memory": 1e9}}
GPUS = {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 4.0}}
SMALL = {"Alive": True, "Resources": {"CPU": 12.0, "GPU": 1.0}}
DEAD = {"Alive": False, "Resources": {"CPU": 1.0, "GPU": 1.0}}
HEAD = {"Alive": True, "Resources": {"memory": 1e9}}


class Reference:
    """What a call returns at once."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def future(self) -> Future[Any]:
        return self._future


class FakeRay(ModuleType):
    """As much of ``ray`` as the backend uses; tasks run in threads, on pickled arguments."""

    def __init__(self, nodes: list[dict[str, Any]], *, running: bool = True) -> None:
        super().__init__("ray")
        self._nodes, self._running = nodes, running
        self._pool = ThreadPoolExecutor(1)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.calls: list[str] = []

    def is_initialized(self) -> bool:
        return False

    def init(self, *, address: str, log_to_driver: bool) -> None:
        assert address == "auto" and not log_to_driver
        if not self._running:
            raise ConnectionError("could not find a cluster")
        self.calls.append("init")

    def nodes(self) -> list[dict[str, Any]]:
        return self._nodes

    def remote(self, function: Callable[..., Any]) -> Any:
        fake = self

        class Task:
            def options(self, **demand: Any) -> Task:
                self.demand = demand
                return self

            def remote(self, job: Job) -> Reference:
                fake.asked.append((job.step, self.demand))
                task, given = pickle.loads(pickle.dumps((function, job)))
                return Reference(fake._pool.submit(task, given))

        return Task()

    def wait(
        self, references: list[Reference], *, num_returns: int, timeout: float
    ) -> tuple[list[Reference], list[Reference]]:
        assert references and num_returns == len(references)
        futures.wait([r.future() for r in references], timeout)
        done = [r for r in references if r.future().done()]
        return done, [r for r in references if r not in done]

    def cancel(self, reference: Reference, *, force: bool = False) -> None:
        reference.future().cancel()
        self.calls.append("force" if force else "cancel")

    def shutdown(self) -> None:
        self.calls.append("shutdown")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeRay]:
    def get(*nodes: dict[str, Any], running: bool = True) -> FakeRay:
        made = FakeRay(list(nodes), running=running)
        monkeypatch.setitem(sys.modules, "ray", made)
        return made

    return get


@pytest.mark.parametrize(
    ("nodes", "demand"),
    [
        ([CPU], (8, 0)),
        ([CPU, HEAD], (8, 0)),
        ([CPU, GPUS], (16, 1)),
        ([CPU, GPUS, SMALL], (12, 1)),
        ([CPU, DEAD], (8, 0)),
    ],
)
def test_a_timed_job_has_a_node_to_itself(
    nodes: list[dict[str, Any]], demand: tuple[int, int]
) -> None:
    assert timed_demand(nodes) == demand


@pytest.mark.parametrize("nodes", [[], [HEAD], [DEAD], [CPU, {**HEAD, "Resources": {"GPU": 1.0}}]])
def test_a_cluster_without_a_fitting_node_is_refused_first(
    fake: Callable[..., FakeRay], nodes: list[dict[str, Any]]
) -> None:
    ray = fake(*nodes)
    with pytest.raises(ConfigError, match=r"none of the cluster's \d nodes"):
        RayBackend(None)
    assert ray.calls == ["init", "shutdown"] and not ray.asked


def test_no_cluster(fake: Callable[..., FakeRay]) -> None:
    fake(running=False)
    with pytest.raises(ConfigError, match="no Ray cluster answers") as caught:
        RayBackend(None)
    assert "ray start --head" in caught.value.fix


def test_what_a_cluster_is_asked_for(
    fake: Callable[..., FakeRay], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Processes, "run", lambda self, job: (job.folder / "ran").touch())
    ray = fake(CPU, GPUS)
    backend = RayBackend(None)
    steps: tuple[Step, ...] = ("build", "profile")
    for step in steps:
        (tmp_path / step).mkdir()
        assert backend.submit(Job(step, tmp_path / step, tmp_path)).result(10) is None
        assert (tmp_path / step / "ran").exists()
    gpu = {"num_gpus": 1, "max_retries": 0}
    assert ray.asked == [
        ("build", {"num_cpus": 1, **gpu}),
        ("profile", {"num_cpus": 16, **gpu}),
    ]
    backend.close()
    assert ray.calls == ["init", "shutdown"]


def test_closing_cancels_what_is_not_done_and_then_forces_it(
    fake: Callable[..., FakeRay], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(Processes, "run", lambda self, job: ended.wait(60))
    monkeypatch.setattr("deploy.study.backends.ray.GRACE_S", 0.1)
    ray = fake(CPU)
    backend = RayBackend(None)
    running, queued = (backend.submit(Job("build", tmp_path, tmp_path)) for _ in range(2))
    backend.close()
    ended.set()
    assert queued.cancelled() and not running.cancelled()
    assert ray.calls == ["init", "cancel", "cancel", "force", "shutdown"]


def test_a_folder_that_nodes_do_not_share(
    fake: Callable[..., FakeRay],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    float_onnx: Path,
    arrays: Path,
    held_out: Path,
) -> None:
    study = write_study(tmp_path, float_onnx, arrays, held_out)
    fake(CPU)

    def elsewhere(job: Job) -> None:
        (tmp_path / "not there" / job.folder.name).read_bytes()

    monkeypatch.setattr("deploy.study.backends.ray.run_on_node", elsewhere)
    monkeypatch.setattr(pickle, "dumps", lambda pair: pair)
    monkeypatch.setattr(pickle, "loads", lambda pair: pair)
    ended = run_here("study", study, "-o", tmp_path / "out", "--cluster", "ray")
    assert ended.code == 1
    assert "the job could not be run: FileNotFoundError" in ended.out
    assert "every machine in use needs trueint8, the data" in ended.out


REAL = """
import sys
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
sys.argv = ["deploy", "study", *sys.argv[1:], "--cluster", "ray", "--json"]
from deploy.cli import main
main()
"""


@pytest.fixture
def on_real_ray(
    tmp_path: Path, float_onnx: Path, arrays: Path, held_out: Path
) -> Callable[..., subprocess.Popen[str]]:
    """Start a study on a Ray cluster of this machine; its folder is ``out``."""
    pytest.importorskip("ray", reason="the package ray is not installed")

    def begin(**keys: Any) -> subprocess.Popen[str]:
        study = write_study(tmp_path, float_onnx, arrays, held_out, **keys)
        line = [sys.executable, "-c", REAL, str(study), "-o", str(tmp_path / "out")]
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return begin


@pytest.mark.slow
def test_a_study_on_real_ray(
    tmp_path: Path, on_real_ray: Callable[..., subprocess.Popen[str]]
) -> None:
    process = on_real_ray(axes={"calib": ["minmax", "mse"]}, include=[{"percentile": 0}])
    out, err = process.communicate(timeout=400)
    assert process.returncode == 1, err
    cells = json.loads(out[out.index("{\n") :])["cells"]
    assert [cell["status"] for cell in cells] == ["done", "done", "failed"]
    assert not overlaps(spans(tmp_path / "out"))


@pytest.mark.slow
def test_ctrl_c_ends_jobs_on_real_ray(
    tmp_path: Path, on_real_ray: Callable[..., subprocess.Popen[str]]
) -> None:
    process, out = on_real_ray(), tmp_path / "out"
    until(lambda: any(out.glob(f"builds/*/.*{STAGING}*")), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert not any(out.glob(f"builds/*/.*{STAGING}*"))
    assert not statuses(out)
