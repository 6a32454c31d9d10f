"""PyTorch in float: the checkpoint's own modules, compiled and eager, as most people run them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.placement import Rules
from deploy.checkpoint_files import checkpoint_source, write_record
from deploy.engine_options import EngineOptions
from deploy.kernels import Kernel
from deploy.sessions import BuildRequest, Configuration, Needs, Precision, Running
from trueint8.errors import MissingDependency

if TYPE_CHECKING:
    from deploy.modules.session import TorchSession


def _library(name: str) -> Any:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its profiler writes on the terminal
    try:
        import torch
        import transformers  # noqa: F401 - of which the modules are
    except ImportError as err:
        raise MissingDependency(
            f"the engine {name} needs the package {err.name}, which is not installed",
            fix="pip install 'trueint8[export]'",
        ) from err
    return torch


class Torch:
    """Runs a checkpoint in float; it has no INT8."""

    name = "torch"
    runs_here = True
    builds_here = True
    runs_checkpoint = True
    placement = Rules()
    options = frozenset({"cuda_graph"})

    def version(self) -> str:
        """Return PyTorch's version."""
        return str(_library(self.name).__version__).split("+")[0]

    def needs(self, options: EngineOptions) -> Needs:
        """Return nothing: it runs modules, and no file of the build's machine."""
        del options
        return Needs("any")

    def floats(self) -> list[Configuration]:
        """Return what the machine multiplies in, compiled, then eager."""
        _library(self.name)
        from deploy.modules.session import EAGER, precisions

        found = precisions()
        eager = [Configuration("float", p, EAGER) for p in found]
        return [*(Configuration("float", p) for p in found), *eager]

    def int8_rest(self) -> Precision | None:
        """Return None: this engine has no INT8."""
        return None

    def build(self, request: BuildRequest) -> None:
        """Write which checkpoint it runs."""
        _library(self.name)
        with request.progress.step(f"build {self.name}"):
            write_record(checkpoint_source(self.name, request.source), request.folder)

    def audit(
        self,
        path: Path,
        configuration: Configuration,
        running: Running,
        matmuls: Mapping[str, str],
    ) -> list[Kernel]:
        """Read every operator that a run executes from torch's profiler.

        CUDA graphs, inside which the profiler sees no operator, are off meanwhile, and kernels that
        are compiled say that they run.
        """
        from deploy.modules.session import audit_session

        options = replace(running.options, cuda_graph=False)
        running = replace(running, options=options, profiled=True)
        with self.open(path, configuration, running) as session:
            return audit_session(session, running, matmuls)

    def open(self, path: Path, configuration: Configuration, running: Running) -> TorchSession:
        """Load the checkpoint that is recorded in the engine's folder."""
        _library(self.name)
        from deploy.modules.session import TorchSession

        return TorchSession(path, configuration, running)


ENGINE = Torch()
