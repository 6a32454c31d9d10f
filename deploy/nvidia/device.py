"""The little of CUDA that a session needs, over whichever Python package of it is installed."""

from __future__ import annotations

import functools
import importlib.util
import os
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from deploy.hardware import NO_ANSWER, ask_driver
from trueint8.errors import MissingDependency, RunError

INSTALL = "pip install cuda-python   (or, with a CUDA toolkit: pip install pycuda)"
_MIB = 2**20


class Device(Protocol):
    """The first GPU. Pointers are integers; sizes are bytes; streams are CUDA's own handles.

    Attributes:
        captures: Whether CUDA graphs can be captured through this package.
    """

    captures: bool

    def current(self) -> AbstractContextManager[None]:
        """Make it the calling thread's device for a block; everything else needs it."""

    def allocate(self, size: int) -> int:
        """Return device memory.

        Raises:
            RunError: If there is not enough; says how much was needed.
        """

    def free(self, pointer: int) -> None:
        """Give device memory back."""

    def allocate_pinned(self, size: int) -> np.ndarray:
        """Return page-locked host memory as an array of uint8."""

    def free_pinned(self, array: np.ndarray) -> None:
        """Give page-locked memory back; the array must not be used again."""

    def create_stream(self) -> int:
        """Return a stream that does not wait for the default stream."""

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""

    def synchronize(self, stream: int) -> None:
        """Wait for everything in a stream.

        Raises:
            RunError: If something in it failed.
        """

    def copy_in(self, pointer: int, source: np.ndarray, stream: int) -> None:
        """Copy from page-locked memory to the device, in a stream."""

    def copy_out(self, target: np.ndarray, pointer: int, stream: int) -> None:
        """Copy from the device to page-locked memory, in a stream."""

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy on the device, in a stream."""

    def create_event(self) -> Any:
        """Return an event that can take the time."""

    def destroy_event(self, event: Any) -> None:
        """Give an event back."""

    def record(self, event: Any, stream: int) -> None:
        """Put an event into a stream."""

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return milliseconds between two events that have passed."""

    def begin_capture(self, stream: int) -> None:
        """Record what enters a stream from now on instead of executing it."""

    def end_capture(self, stream: int) -> Any:
        """Return what was recorded, ready to launch."""

    def launch(self, graph: Any, stream: int) -> None:
        """Execute in a stream what was recorded."""

    def destroy_graph(self, graph: Any) -> None:
        """Give a recording back."""

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes of the device, over all processes."""


def open_device() -> Device:
    """Return the first GPU through cuda-python or, if that is not installed, pycuda.

    Raises:
        MissingDependency: If neither is installed.
        RunError: If there is no GPU.
    """
    if _installed("cuda.bindings.runtime"):
        from deploy.nvidia.with_cuda_python import CudaPython

        return CudaPython()
    if _installed("pycuda"):
        from deploy.nvidia.with_pycuda import PyCuda

        return PyCuda()
    raise MissingDependency(
        "running on the GPU needs the package cuda-python or pycuda; neither is installed",
        fix=INSTALL,
    )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is not there
        return False


@functools.cache
def compute_capability() -> str | None:
    """Return the first GPU's compute capability as ``8.9``; None where no driver tells one."""
    answer = ask_driver("compute_cap")
    return None if answer is None or answer == NO_ANSWER else answer.splitlines()[0]


def process_memory() -> int | None:
    """Return bytes that this process holds on all GPUs, contexts and libraries included.

    None where nvidia-ml-py or the driver's library is not there, or does not tell, as in
    containers that see no process numbers but their own.
    """
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        running = [p for h in handles for p in pynvml.nvmlDeviceGetComputeRunningProcesses(h)]
    finally:
        pynvml.nvmlShutdown()
    told = [p.usedGpuMemory for p in running if p.pid == os.getpid() and p.usedGpuMemory]
    return sum(told) or None


def out_of_memory(needed: int, memory: tuple[int, int]) -> RunError:
    """Return the error for device memory that is not there.

    Args:
        needed: Bytes asked for.
        memory: Free and total bytes.
    """
    free, total = memory
    return RunError(
        f"out of GPU memory: {needed / _MIB:.1f} MiB more are needed, "
        f"{free / _MIB:.1f} of {total / _MIB:.1f} MiB are free",
        fix="run smaller batches, close what else uses the GPU, or build with smaller --max-shapes",
    )
