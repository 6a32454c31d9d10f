"""A plan to an engine of the library's runtime, or an error that says why it is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from deploy.engine_options import EngineOptions
from deploy.nvidia.device import Device, out_of_memory
from deploy.nvidia.library import listed, log_of
from trueint8.errors import RunError

if TYPE_CHECKING:
    import tensorrt as trt

_MEMORY_WORDS = ("out of memory", "OutOfMemory", "FAILED_ALLOCATION")


class Loader(Protocol):
    """What is particular to one of the two libraries when a plan is loaded."""

    title: str
    """The library's name, as people write it."""

    def library(self) -> Any:
        """Return the imported library."""

    def prepare(self, runtime: trt.Runtime, plan: bytes, options: EngineOptions) -> None:
        """Set what this plan needs, and refuse it where the library knows it cannot run.

        Raises:
            RunError: Saying why.
        """


def load_plan(
    loader: Loader,
    plan: bytes,
    where: str,
    options: EngineOptions,
    device: Device,
    lines: list[str],
) -> tuple[trt.Runtime, trt.ICudaEngine]:
    """Deserialize a plan; the runtime must be kept for as long as the engine.

    Args:
        loader: Which library.
        plan: The file's bytes.
        where: What to call it in errors.
        options: Those it was built with.
        device: Where it goes.
        lines: What the library logs meanwhile.

    Raises:
        RunError: If it is no plan, or of another version or GPU, or the device is too full.
    """
    library = loader.library()
    version = f"{loader.title} {library.__version__}"
    try:
        runtime: trt.Runtime = library.Runtime(log_of(library))
    except TypeError as err:  # pybind11's word for a factory that returned nothing
        raise RunError(
            f"{version} cannot start:\n    {listed(lines)}",
            fix="check the GPU and its driver with nvidia-smi",
        ) from err
    loader.prepare(runtime, plan, options)
    engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan)
    if engine is None and tells_of_memory(lines):
        raise out_of_memory(len(plan), device.memory())
    if engine is None:
        raise RunError(
            f"{where} is no plan that {version} can run on this GPU:\n    {listed(lines)}",
            fix="build it again with this version on this GPU, or restore the file",
        )
    return runtime, engine


def tells_of_memory(lines: list[str]) -> bool:
    """Whether the library logged that memory was short."""
    return any(word in line for line in lines for word in _MEMORY_WORDS)
