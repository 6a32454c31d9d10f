"""TensorRT 10.8 to 11.4: plans for the NVIDIA GPU they are built on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.engine_options import EngineOptions
from deploy.kernels import Kernel
from deploy.nvidia.device import compute_capability, open_device
from deploy.nvidia.engine import PlanEngine
from deploy.nvidia.inspector import engine_kernels
from deploy.nvidia.library import log_lines
from deploy.nvidia.loading import load_plan
from deploy.nvidia.timing_cache import keep_timing_cache, use_timing_cache
from deploy.sessions import BUILT_CAPABILITY, BuildRequest, Configuration, Needs, Running
from trueint8.errors import BuildError, ConfigError, RunError

if TYPE_CHECKING:
    import tensorrt as trt

REQUIREMENT = "tensorrt>=10.8"
LEVELS = {"ampere+": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}
"""TensorRT's names for :attr:`EngineOptions.hardware_compatible`; the second came after 10.8."""


class TensorRt(PlanEngine):
    """Builds and runs on the GPU at hand; the engine inspector tells what it executes."""

    name = "tensorrt"
    title = "TensorRT"
    module = "tensorrt"
    install = f"pip install 'trueint8[tensorrt]'   (or: pip install '{REQUIREMENT}')"
    options = frozenset(
        [
            "workspace_mib",
            "opt_level",
            "timing_cache",
            "version_compatible",
            "hardware_compatible",
            "cuda_graph",
        ]
    )

    @property
    def runs_here(self) -> bool:
        """Whether the library and an NVIDIA GPU are here."""
        return compute_capability() is not None and self.installed()

    @property
    def builds_here(self) -> bool:
        """The same: TensorRT times kernels on the GPU it builds for."""
        return self.runs_here

    def needs(self, options: EngineOptions) -> Needs:
        """Return the version and the GPU of the build, as far as the plan was not widened."""
        capabilities = {"none": (BUILT_CAPABILITY,), "ampere+": ("8.0+",)}
        return Needs(
            "not older" if options.version_compatible else "same",
            system=True,
            capabilities=capabilities.get(options.hardware_compatible, (BUILT_CAPABILITY,)),
        )

    def build(self, request: BuildRequest) -> None:
        """Build on the GPU.

        Raises:
            BuildError: If there is none, or TensorRT refuses the graph.
        """
        self.library()
        if not self.builds_here:
            raise BuildError(
                "TensorRT builds on the GPU that it builds for, and there is none here",
                fix="run this on that machine, or build for NVIDIA RTX GPUs from here with "
                "--engine tensorrt-rtx",
            )
        super().build(request)

    def configure(self, config: trt.IBuilderConfig, options: EngineOptions) -> None:
        """Set compatibility and the timing cache."""
        library = self.library()
        if options.version_compatible:
            config.set_flag(library.BuilderFlag.VERSION_COMPATIBLE)
        if options.hardware_compatible in LEVELS:
            known = library.HardwareCompatibilityLevel.__members__
            level = LEVELS[options.hardware_compatible]
            if level not in known:
                raise ConfigError(
                    f"TensorRT {library.__version__} has no --hardware-compatible "
                    f"{options.hardware_compatible}",
                    fix="leave it out, or install a later TensorRT",
                )
            config.hardware_compatibility_level = known[level]
        if options.timing_cache is not None:
            use_timing_cache(config, Path(options.timing_cache).expanduser())

    def compiled(self, config: trt.IBuilderConfig, options: EngineOptions) -> None:
        """Keep the timing cache."""
        if options.timing_cache is not None:
            keep_timing_cache(config, Path(options.timing_cache).expanduser())

    def audit(
        self,
        path: Path,
        configuration: Configuration,
        running: Running,
        matmuls: Mapping[str, str],
    ) -> list[Kernel]:
        """Ask the engine inspector.

        Raises:
            RunError: If the plan does not load here.
        """
        if not self.runs_here:
            raise self.not_here(path)
        plan, where = self.plan_of(path, configuration, running)
        library, device = self.library(), open_device()
        with device.current(), log_lines(library) as lines:
            kept, engine = load_plan(self, plan, where, running.options, device, lines)
            inspector = engine.create_engine_inspector()
            text = inspector.get_engine_information(library.LayerInformationFormat.JSON)
            del inspector, engine, kept  # in this order, on the device they are of
        return engine_kernels(text, matmuls)

    def prepare(self, runtime: trt.Runtime, plan: bytes, options: EngineOptions) -> None:
        """Allow the code inside a plan that later versions can run: a runtime of its own."""
        del plan
        runtime.engine_host_code_allowed = options.version_compatible

    def not_here(self, path: Path) -> RunError:
        """Say that there is no GPU."""
        return RunError(
            f"{path} is BUILT, not run: a TensorRT plan needs the NVIDIA GPU it was built for",
            fix="load the bundle with engine='openvino' or 'onnxruntime', or on such a GPU",
        )


ENGINE = TensorRt()
