"""What the engines ``tensorrt`` and ``tensorrt-rtx`` share."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.placement import Rules
from deploy.engine_options import EngineOptions
from deploy.kernels import Kernel
from deploy.nvidia.building import compile_plan
from deploy.nvidia.device import Device, open_device
from deploy.nvidia.library import load_library
from deploy.nvidia.session import PlanSession
from deploy.sessions import BuildRequest, Configuration, Needs, Precision, Running
from export.onnx_file import load_clean, save_model
from export.passes.to_half import half_graph
from trueint8.artifacts import storage_errors
from trueint8.errors import MissingDependency, RunError

if TYPE_CHECKING:
    import tensorrt_rtx as trt

FILE = "model.plan"

PLACEMENT = Rules(head_widths=(16, 32, 64), clipped_widths=(64,), longest=512, rest="fp16")
"""Read from plans of TensorRT-RTX 1.7. That full TensorRT fuses the same attentions is inferred:

the compiler is of one family, and NVIDIA's own quantizer keeps to 512 tokens for it too.
"""


class PlanEngine(ABC):
    """Compiles strongly typed graphs; types and Q/DQ alone decide precision."""

    name: str
    title: str
    module: str
    install: str
    captures_itself = False
    runs_checkpoint = False
    placement = PLACEMENT
    options: frozenset[str]

    @property
    @abstractmethod
    def runs_here(self) -> bool:
        """Whether the library and a GPU it runs on are here."""

    @property
    @abstractmethod
    def builds_here(self) -> bool:
        """Whether this machine can build."""

    @abstractmethod
    def needs(self, options: EngineOptions) -> Needs:
        """Return what a plan needs of a machine."""

    @abstractmethod
    def audit(
        self,
        path: Path,
        configuration: Configuration,
        running: Running,
        matmuls: Mapping[str, str],
    ) -> list[Kernel]:
        """Return what the engine executes."""

    def library(self) -> Any:
        """Return the imported library.

        Raises:
            MissingDependency: If it is not installed; the fix is the install command.
        """
        return load_library(self.name, self.module, self.install)

    def installed(self) -> bool:
        """Whether the library is here."""
        try:
            self.library()
        except MissingDependency:
            return False
        return True

    def version(self) -> str:
        """Return the library's version."""
        return str(self.library().__version__)

    def floats(self) -> list[Configuration]:
        """Return FP32 (TF32 is off) and FP16 where plans run, else nothing."""
        if not self.runs_here:
            return []
        return [Configuration("float", "fp32"), Configuration("float", "fp16")]

    def int8_rest(self) -> Precision:
        """Return FP16: unquantized attention in FP32 is never fused."""
        return "fp16"

    def configure(self, config: trt.IBuilderConfig, options: EngineOptions) -> None:
        """Set what only this library has."""
        del config, options

    def compiled(self, config: trt.IBuilderConfig, options: EngineOptions) -> None:
        """Keep what is worth keeping for later builds."""
        del config, options

    def build(self, request: BuildRequest) -> None:
        """Parse, set one optimization profile, compile, and write the plan."""
        with request.progress.step(f"build {self.name}") as advance:
            plan = compile_plan(self, request.int8_graph, request.shapes, request.options, advance)
        out = request.folder / FILE
        with storage_errors(out):
            out.write_bytes(plan)

    def open(self, path: Path, configuration: Configuration, running: Running) -> PlanSession:
        """Load the plan of a folder, or compile an ``.onnx`` file for ``running.shapes`` first."""
        if not self.runs_here:
            raise self.not_here(path)
        return self.open_on(open_device(), path, configuration, running)

    def open_on(
        self, device: Device, path: Path, configuration: Configuration, running: Running
    ) -> PlanSession:
        """Do the same on a given device."""
        plan, where = self.plan_of(path, configuration, running)
        return PlanSession(self, plan, where, running, device)

    @abstractmethod
    def not_here(self, path: Path) -> RunError:
        """Return the error for a plan that cannot run on this machine."""

    def plan_of(
        self, path: Path, configuration: Configuration, running: Running
    ) -> tuple[bytes, str]:
        """Return a plan and what to call it in errors, compiled where ``path`` is a graph's file.

        Raises:
            RunError: If the folder holds no plan, or a graph comes without shapes.
            BuildError: If a graph cannot be compiled.
            ExportError: If a graph cannot be written in FP16.
        """
        if configuration.graph == "int8" or path.is_dir():
            file = path / FILE
            if not file.is_file():
                raise RunError(f"{file} is missing", fix="build the bundle again")
            return file.read_bytes(), str(file)
        if running.shapes is None:
            raise RunError(
                f"{path} is compiled for given shapes, and none are given",
                fix="pass Running(shapes=...)",
            )
        with tempfile.TemporaryDirectory(prefix="trueint8-") as scratch:
            graph = path
            if configuration.rest == "fp16":
                graph = Path(scratch) / path.name
                save_model(half_graph(load_clean(path)), graph)
            plan = compile_plan(
                self, graph, running.shapes, self.options_here(running.options), _nothing
            )
        return plan, f"the plan of {path.name}"

    def options_here(self, options: EngineOptions) -> EngineOptions:
        """Return options for a plan that is run where it is compiled."""
        return options

    def prepare(self, runtime: trt.Runtime, plan: bytes, options: EngineOptions) -> None:
        """Set what this plan needs, and refuse it where the library knows it cannot run."""
        del runtime, plan, options

    def runtime_config(
        self, engine: trt.ICudaEngine, plan_sha256: str, running: Running
    ) -> tuple[trt.IRuntimeConfig | None, trt.IRuntimeCache | None]:
        """Leave contexts to the library's own way."""
        del engine, plan_sha256, running
        return None, None

    def closing(self, cache: trt.IRuntimeCache | None, plan_sha256: str) -> None:
        """Keep nothing."""
        del cache, plan_sha256


def _nothing(units: int) -> None:
    """Show no progress: opening a session has none."""
