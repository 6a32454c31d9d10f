"""The device through cuda-python 12.6 or later."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
from cuda.bindings import runtime as cuda

from deploy.nvidia.device import out_of_memory
from trueint8.errors import RunError


class CudaPython:
    """The CUDA runtime's primary context on device 0."""

    captures = True

    def __init__(self) -> None:
        with self.current():
            pass

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make device 0 the thread's; the runtime needs no undoing."""
        _checked(cuda.cudaSetDevice(0))
        yield

    def allocate(self, size: int) -> int:
        """Call cudaMalloc."""
        answer = cuda.cudaMalloc(size)
        if answer[0] == cuda.cudaError_t.cudaErrorMemoryAllocation:
            raise out_of_memory(size, self.memory())
        return int(_checked(answer))

    def free(self, pointer: int) -> None:
        """Call cudaFree."""
        _checked(cuda.cudaFree(pointer))

    def allocate_pinned(self, size: int) -> np.ndarray:
        """Wrap what cudaMallocHost gives."""
        address = int(_checked(cuda.cudaMallocHost(size)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, array: np.ndarray) -> None:
        """Call cudaFreeHost."""
        _checked(cuda.cudaFreeHost(array.ctypes.data))

    def create_stream(self) -> int:
        """Call cudaStreamCreateWithFlags."""
        return int(_checked(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking)))

    def destroy_stream(self, stream: int) -> None:
        """Call cudaStreamDestroy."""
        _checked(cuda.cudaStreamDestroy(stream))

    def synchronize(self, stream: int) -> None:
        """Call cudaStreamSynchronize."""
        _checked(cuda.cudaStreamSynchronize(stream))

    def copy_in(self, pointer: int, source: np.ndarray, stream: int) -> None:
        """Call cudaMemcpyAsync."""
        kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        _checked(cuda.cudaMemcpyAsync(pointer, source.ctypes.data, source.nbytes, kind, stream))

    def copy_out(self, target: np.ndarray, pointer: int, stream: int) -> None:
        """Call cudaMemcpyAsync."""
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _checked(cuda.cudaMemcpyAsync(target.ctypes.data, pointer, target.nbytes, kind, stream))

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Call cudaMemcpyAsync."""
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        _checked(cuda.cudaMemcpyAsync(target, source, size, kind, stream))

    def create_event(self) -> Any:
        """Call cudaEventCreateWithFlags."""
        return _checked(cuda.cudaEventCreateWithFlags(cuda.cudaEventDefault))

    def destroy_event(self, event: Any) -> None:
        """Call cudaEventDestroy."""
        _checked(cuda.cudaEventDestroy(event))

    def record(self, event: Any, stream: int) -> None:
        """Call cudaEventRecord."""
        _checked(cuda.cudaEventRecord(event, stream))

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Call cudaEventElapsedTime."""
        return float(_checked(cuda.cudaEventElapsedTime(start, end)))

    def begin_capture(self, stream: int) -> None:
        """Call cudaStreamBeginCapture; other threads may go on using CUDA."""
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _checked(cuda.cudaStreamBeginCapture(stream, mode))

    def end_capture(self, stream: int) -> Any:
        """Call cudaStreamEndCapture and cudaGraphInstantiate."""
        graph = _checked(cuda.cudaStreamEndCapture(stream))
        try:
            return _checked(cuda.cudaGraphInstantiate(graph, 0))
        finally:
            _checked(cuda.cudaGraphDestroy(graph))

    def launch(self, graph: Any, stream: int) -> None:
        """Call cudaGraphLaunch."""
        _checked(cuda.cudaGraphLaunch(graph, stream))

    def destroy_graph(self, graph: Any) -> None:
        """Call cudaGraphExecDestroy."""
        _checked(cuda.cudaGraphExecDestroy(graph))

    def memory(self) -> tuple[int, int]:
        """Call cudaMemGetInfo."""
        free, total = _checked(cuda.cudaMemGetInfo())
        return int(free), int(total)


def _checked(answer: tuple[Any, ...]) -> Any:
    """Return what a call gave after its error code.

    Raises:
        RunError: If the code is not 0; names it.
    """
    code = answer[0]
    if int(code):
        text = cuda.cudaGetErrorString(code)[1].decode()
        raise RunError(
            f"CUDA failed: {code.name}: {text}", fix="check the GPU and its driver with nvidia-smi"
        )
    return answer[1] if len(answer) == 2 else answer[1:]
