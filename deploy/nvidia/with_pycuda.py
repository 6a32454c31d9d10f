"""The device through pycuda, which has no CUDA graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pycuda.driver as cuda

from deploy.nvidia.device import out_of_memory
from trueint8.errors import RunError

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING, for which pycuda has no name."""


class PyCuda:
    """The primary context of device 0, so that TensorRT's runtime calls share it."""

    captures = False

    def __init__(self) -> None:
        with _told():
            cuda.init()
            self._context = cuda.Device(0).retain_primary_context()
        self._allocations: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Push the context, and pop it after the block."""
        self._context.push()
        try:
            with _told():
                yield
        finally:
            cuda.Context.pop()

    def allocate(self, size: int) -> int:
        """Keep what mem_alloc gives: it is freed when nothing refers to it."""
        try:
            allocation = cuda.mem_alloc(size)
        except cuda.MemoryError as err:
            raise out_of_memory(size, self.memory()) from err
        pointer = int(allocation)
        self._allocations[pointer] = allocation
        return pointer

    def free(self, pointer: int) -> None:
        """Free an allocation at once."""
        self._allocations.pop(pointer).free()

    def allocate_pinned(self, size: int) -> np.ndarray:
        """Return what pagelocked_empty gives."""
        array: np.ndarray = cuda.pagelocked_empty(size, np.uint8)
        return array

    def free_pinned(self, array: np.ndarray) -> None:
        """Free the array's own allocation at once."""
        allocation: Any = array.base
        allocation.free()

    def create_stream(self) -> int:
        """Keep a Stream and return its handle."""
        stream = cuda.Stream(_NON_BLOCKING)
        self._streams[stream.handle] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        """Drop the Stream."""
        del self._streams[stream]

    def synchronize(self, stream: int) -> None:
        """Wait for the Stream."""
        self._streams[stream].synchronize()

    def copy_in(self, pointer: int, source: np.ndarray, stream: int) -> None:
        """Call memcpy_htod_async."""
        cuda.memcpy_htod_async(pointer, source, self._streams[stream])

    def copy_out(self, target: np.ndarray, pointer: int, stream: int) -> None:
        """Call memcpy_dtoh_async."""
        cuda.memcpy_dtoh_async(target, pointer, self._streams[stream])

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Call memcpy_dtod_async."""
        cuda.memcpy_dtod_async(target, source, size, self._streams[stream])

    def create_event(self) -> Any:
        """Return an Event."""
        return cuda.Event()

    def destroy_event(self, event: Any) -> None:
        """Leave it to Python: an Event is freed when nothing refers to it."""

    def record(self, event: Any, stream: int) -> None:
        """Record the Event."""
        event.record(self._streams[stream])

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return time_till."""
        return float(start.time_till(end))

    def begin_capture(self, stream: int) -> None:
        """Refuse."""
        raise NotImplementedError("pycuda has no CUDA graphs")

    def end_capture(self, stream: int) -> Any:
        """Refuse."""
        raise NotImplementedError("pycuda has no CUDA graphs")

    def launch(self, graph: Any, stream: int) -> None:
        """Refuse."""
        raise NotImplementedError("pycuda has no CUDA graphs")

    def destroy_graph(self, graph: Any) -> None:
        """Refuse."""
        raise NotImplementedError("pycuda has no CUDA graphs")

    def memory(self) -> tuple[int, int]:
        """Call mem_get_info."""
        free, total = cuda.mem_get_info()
        return int(free), int(total)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except cuda.Error as err:
        raise RunError(
            f"CUDA failed: {err}", fix="check the GPU and its driver with nvidia-smi"
        ) from err
