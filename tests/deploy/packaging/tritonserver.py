"""The genuine tritonserver of the nvidia-pytriton wheel, in an environment of its own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
SERVER = "nvidia-pytriton==0.7.0"
PERF_ANALYZER = "tritonclient==2.50.0"
PACKAGES = (
    "numpy<2",  # the server's Python process cannot exchange arrays of later ones
    "onnxruntime",
    "tokenizers",
    # what an engine of a bundle is opened with, but for the bundle's own package
    "click", "ml_dtypes", "numba", "onnx", "onnx-ir", "onnxscript", "psutil", "pydantic", "rich",
    "safetensors", "scipy",
)  # fmt: skip
Start = Callable[..., Any]
STARTS_WITHIN_S = 90.0
INSTALLS_WITHIN_S = 400


def environment(cache: Path) -> Path:
    """Return the site-packages of the server's environment, made once per cache folder."""
    key = hashlib.sha256(" ".join((SERVER, *PACKAGES, sys.version)).encode()).hexdigest()[:12]
    folder = cache / f"environment-{key}"
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        pip = (str(folder / "bin" / "python"), "-m", "pip", "install", "-q")
        for command in (
            (sys.executable, "-m", "venv", str(folder)),
            (*pip, *PACKAGES),
            (*pip, "--no-deps", SERVER),
        ):
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=INSTALLS_WITHIN_S
            )
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                pytest.skip(f"the environment of tritonserver cannot be made: {last}")
        (folder / "whole").touch()
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / python / "site-packages"
    # installing it would want a later numpy; the server's Python process reads no PYTHONPATH
    (packages / "under-test.pth").write_text(f"{ROOT}\n", "utf-8")
    return packages


def perf_analyzer(packages: Path, cache: Path) -> Path:
    """Return a folder with NVIDIA's program of that name, from the last wheel that runs anywhere.

    Later ones want a later C library; the libraries that this one misses come with the server.
    """
    folder = cache / PERF_ANALYZER.replace("==", "-")
    program = folder / "bin" / "perf_analyzer"
    if not program.is_file():
        pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder))
        done = subprocess.run(
            (*pip, PERF_ANALYZER), capture_output=True, check=False, timeout=INSTALLS_WITHIN_S
        )
        if done.returncode:
            pytest.skip(f"{PERF_ANALYZER} cannot be installed")
    libraries, path = folder / "lib", folder / "path"
    for name in ("libb64.so.0d", "libcudart.so.12"):
        stem = name.partition(".")[0]
        (found,) = (packages / "nvidia_pytriton.libs").glob(f"{stem}-*")
        libraries.mkdir(exist_ok=True)
        (libraries / name).unlink(missing_ok=True)
        (libraries / name).symlink_to(found.resolve())
    path.mkdir(exist_ok=True)
    start = path / "perf_analyzer"
    start.write_text(
        f'#!/bin/sh\nLD_LIBRARY_PATH={libraries.resolve()} exec {program.resolve()} "$@"\n'
    )
    start.chmod(0o755)
    return path


def make_backends(packages: Path, folder: Path) -> Path:
    """Lay out backends: the wheel's Python one, and ours in place of ONNX Runtime's."""
    server = packages / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        pytest.skip(f"the wheel has no Python process for Python {version}")
    shutil.copytree(server / "backends" / "python", folder / "python")
    shutil.copy(stub, folder / "python")
    (folder / "onnxruntime").mkdir()
    program = Path(__file__).with_name("onnxruntime_backend.py")
    shutil.copy(program, folder / "onnxruntime" / "model.py")
    return folder


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Server:
    """One process."""

    def __init__(
        self,
        packages: Path,
        backends: Path,
        repository: Path,
        log: Path,
        flags: Sequence[str] = (),
    ) -> None:
        self.http, self.grpc, self.metrics = _free_ports(3)
        self.log = log
        server = packages / "pytriton" / "tritonserver"
        libraries = (packages / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
        found = {
            "PATH": f"{packages.parents[2] / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(packages),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        }
        local = [f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")]
        ports = [f"--{kind}-port={getattr(self, kind)}" for kind in ("http", "grpc", "metrics")]
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [
                    server / "bin" / "tritonserver",
                    f"--model-repository={repository}",
                    f"--backend-directory={backends}",
                    "--allow-gpu-metrics=false",
                    *local,
                    *ports,
                    *flags,
                ],
                env={**os.environ, **found},
                cwd=log.parent,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{self.http}", f"grpc://127.0.0.1:{self.grpc}"]

    def wait(self) -> bool:
        """Return whether it became ready; False if it ended before."""
        end = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if self.get("/v2/health/ready") == "":
                    return True
            time.sleep(0.2)
        return False

    def get(self, path: str, *, port: int | None = None) -> str:
        url = f"http://127.0.0.1:{port or self.http}{path}"
        with urllib.request.urlopen(url, timeout=30) as reply:
            text: str = reply.read().decode()
            return text

    def told(self) -> str:
        return self.log.read_text("utf-8", errors="replace")

    def end(self) -> None:
        """Stop it, gently first."""
        self.process.terminate()
        try:
            self.process.wait(45)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def serving(*where: Any) -> Iterator[Server]:
    """Yield a server that is ready."""
    server = Server(*where)
    try:
        assert server.wait(), server.told()
        yield server
    finally:
        server.end()
