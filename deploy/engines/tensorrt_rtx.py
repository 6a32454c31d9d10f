"""TensorRT-RTX: plans for NVIDIA RTX GPUs, compiled with or without a GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.engine_options import GPU_TARGETS, EngineOptions
from deploy.kernels import Kernel
from deploy.nvidia.device import compute_capability
from deploy.nvidia.engine import PlanEngine
from deploy.nvidia.plan_kernels import kernels_of
from deploy.nvidia.plan_text import plan_operations
from deploy.sessions import BuildRequest, Configuration, Needs, Running
from trueint8.artifacts import write_atomically
from trueint8.errors import RunError, StorageError

if TYPE_CHECKING:
    import tensorrt_rtx as trt

REQUIREMENT = "tensorrt-rtx-cu13>=1.7,<1.8"
CACHE = Path("~/.cache/trueint8")
"""Where kernels that were compiled at load are kept; never in a bundle, which is sealed."""


class TensorRtRtx(PlanEngine):
    """Compiles anywhere; kernels are chosen and compiled when a plan is loaded on its GPU."""

    name = "tensorrt-rtx"
    title = "TensorRT-RTX"
    module = "tensorrt_rtx"
    install = f"pip install 'trueint8[tensorrt-rtx]'   (or: pip install '{REQUIREMENT}')"
    captures_itself = True
    options = frozenset(["gpu", "workspace_mib", "cuda_graph"])

    @property
    def runs_here(self) -> bool:
        """Whether the library and a GPU it has kernels for are here; Hopper is none."""
        target = _target(compute_capability())
        return target in GPU_TARGETS and self.installed()

    @property
    def builds_here(self) -> bool:
        """Always: it compiles without a GPU."""
        return True

    def needs(self, options: EngineOptions) -> Needs:
        """Return the same version and system, and a GPU among the plan's targets."""
        named = tuple(f"{gpu[2:-1]}.{gpu[-1]}" for gpu in options.gpu)
        return Needs("same", system=True, capabilities=named or DEFAULT_TARGETS)

    def build(self, request: BuildRequest) -> None:
        """Build, and warn of what a Turing GPU among the targets costs."""
        if "sm75" in request.options.gpu:
            request.progress.say(
                "warning: with sm75 among its targets TensorRT-RTX fuses INT8 attention of heads "
                "up to 32 wide only; build a plan of its own for sm75"
            )
        super().build(request)

    def configure(self, config: trt.IBuilderConfig, options: EngineOptions) -> None:
        """Set the targets."""
        library = self.library()
        if not options.gpu:
            return
        config.num_compute_capabilities = len(options.gpu)
        for index, target in enumerate(options.gpu):
            capability = library.ComputeCapability.__members__[target.upper()]
            config.set_compute_capability(capability, index)

    def options_here(self, options: EngineOptions) -> EngineOptions:
        """Compile for the GPU at hand alone, whatever the bundle's plan is for."""
        target = _target(compute_capability())
        return replace(options, gpu=(target,) if target in GPU_TARGETS else ())

    def audit(
        self,
        path: Path,
        configuration: Configuration,
        running: Running,
        matmuls: Mapping[str, str],
    ) -> list[Kernel]:
        """Read each kernel's operand types from the text inside the plan.

        A fused attention is one kernel for both of its matmuls.
        """
        plan, _ = self.plan_of(path, configuration, running)
        return kernels_of(plan_operations(plan), matmuls)

    def not_here(self, path: Path) -> RunError:
        """Say that there is no RTX GPU."""
        return RunError(
            f"{path} is BUILT, not run: a TensorRT-RTX plan needs an NVIDIA RTX GPU",
            fix="load the bundle with engine='openvino' or 'onnxruntime', or copy it to such a GPU",
        )

    def prepare(self, runtime: trt.Runtime, plan: bytes, options: EngineOptions) -> None:
        """Ask whether this GPU, driver and version can run it.

        Raises:
            RunError: With the library's reasons.
        """
        library = self.library()
        del options
        validity, reasons = runtime.get_engine_validity(plan)
        if validity == library.EngineValidity.INVALID:
            known = library.EngineInvalidityDiagnostics.__members__.items()
            told = [name.lower().replace("_", " ") for name, bit in known if int(bit) & reasons]
            raise RunError(
                f"TensorRT-RTX {library.__version__} cannot run this plan here: "
                f"{', '.join(told) or 'no reason given'}",
                fix="build it again with this version, with --gpu for this GPU, or update the "
                "driver",
            )

    def runtime_config(
        self, engine: trt.ICudaEngine, plan_sha256: str, running: Running
    ) -> tuple[trt.IRuntimeConfig, trt.IRuntimeCache]:
        """Compile kernels for the shapes at hand before they run, and keep them between runs.

        The library's own way would run slower kernels first and replace them meanwhile.
        """
        library = self.library()
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            library.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        strategies = library.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        if running.options.cuda_graph and not running.profiled:
            config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        cache = config.create_runtime_cache()
        file = self._cache_file(plan_sha256)
        if file.is_file():
            cache.deserialize(file.read_bytes())
        config.set_runtime_cache(cache)
        return config, cache

    def closing(self, cache: trt.IRuntimeCache | None, plan_sha256: str) -> None:
        """Write the kernels compiled for this plan; without them the next load is slow again."""
        assert cache is not None
        try:
            write_atomically(self._cache_file(plan_sha256), bytes(cache.serialize()))
        except StorageError:  # a home that cannot be written: nothing is lost but time
            return

    def _cache_file(self, plan_sha256: str) -> Path:
        """Return a name that no other plan, version or kind of GPU has."""
        text = f"{self.version()} {compute_capability()} {plan_sha256}"
        key = hashlib.sha256(text.encode())
        return CACHE.expanduser() / f"tensorrt-rtx-{key.hexdigest()[:32]}.kernels"


DEFAULT_TARGETS = ("8.0", "8.6", "8.9", "12.0+")
"""Of a plan that names none; Hopper (9.0) is not among them."""


def _target(capability: str | None) -> str:
    """Return ``sm89`` for ``8.9``."""
    return f"sm{(capability or '').replace('.', '')}"


ENGINE = TensorRtRtx()
