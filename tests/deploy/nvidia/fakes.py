"""A GPU of NumPy arrays, and a runtime whose one plan doubles its input; both strict.

What CUDA or TensorRT would answer with a crash is an AssertionError here: a freed pointer, a
graph whose addresses are gone, a context without shapes or scratch memory.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from deploy.engine_options import EngineOptions
from deploy.nvidia.device import out_of_memory
from deploy.sessions import Running

WIDTH = 4
LEAST, MOST = (1, 1, WIDTH), (4, 8, WIDTH)
PLAN = b"plan"
COLD_MS = 4.5
"""What the profiler is told of a context's first kernel, of all others 0.5."""


class FakeDevice:
    """See the module's docstring."""

    def __init__(self, total: int = 1 << 20, *, captures: bool = True) -> None:
        self.captures = captures
        self.total = total
        self.held: dict[int, np.ndarray] = {}
        self.pinned: list[np.ndarray] = []
        self.open: set[Any] = set()
        self.is_current = False
        self.allocations = 0
        self.recording: list[Callable[[], None]] | None = None
        self.log: list[str] = []
        self.steps = 0
        self.passed: dict[Any, int] = {}
        self._numbers = itertools.count(1000)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        before, self.is_current = self.is_current, True
        try:
            yield
        finally:
            self.is_current = before

    def allocate(self, size: int) -> int:
        assert self.is_current
        free, total = self.memory()
        if size > free:
            raise out_of_memory(size, (free, total))
        pointer = next(self._numbers)
        self.held[pointer] = np.full(size, 0xAA, np.uint8)
        self.allocations += 1
        return pointer

    def free(self, pointer: int) -> None:
        del self.held[pointer]

    def allocate_pinned(self, size: int) -> np.ndarray:
        self.pinned.append(np.full(size, 0xAA, np.uint8))
        return self.pinned[-1]

    def free_pinned(self, array: np.ndarray) -> None:
        self.pinned = [p for p in self.pinned if p is not array]

    def create_stream(self) -> int:
        return self._made("stream")

    def destroy_stream(self, stream: int) -> None:
        self.open.remove(stream)

    def synchronize(self, stream: int) -> None:
        assert self.recording is None and stream in self.open

    def copy_in(self, pointer: int, source: np.ndarray, stream: int) -> None:
        assert self.recording is None and stream in self.open
        self._of_pinned(source)
        self.steps += 1
        self.held[pointer][: source.nbytes] = source.reshape(-1).view(np.uint8)

    def copy_out(self, target: np.ndarray, pointer: int, stream: int) -> None:
        assert self.recording is None and stream in self.open
        self._of_pinned(target)
        self.steps += 1
        target.reshape(-1).view(np.uint8)[:] = self.held[pointer][: target.nbytes]

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        assert self.recording is None and stream in self.open and target != source
        self.steps += 1
        self.held[target][:size] = self.held[source][:size]

    def create_event(self) -> Any:
        return self._made("event")

    def destroy_event(self, event: Any) -> None:
        self.open.remove(event)

    def record(self, event: Any, stream: int) -> None:
        assert event in self.open and stream in self.open
        self.log.append("event")
        self.passed[event] = self.steps

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return a quarter for every copy and kernel in between."""
        assert start != end
        return 0.25 * (self.passed[end] - self.passed[start])

    def begin_capture(self, stream: int) -> None:
        assert self.recording is None and stream in self.open
        self.recording = []

    def end_capture(self, stream: int) -> Any:
        assert self.recording is not None and stream in self.open
        graph = self._made("graph")
        self.graphs = {**getattr(self, "graphs", {}), graph: self.recording}
        self.recording = None
        self.log.append("capture")
        return graph

    def launch(self, graph: Any, stream: int) -> None:
        assert graph in self.open and stream in self.open
        self.log.append("launch")
        self.steps += 1
        for kernel in self.graphs[graph]:
            kernel()

    def destroy_graph(self, graph: Any) -> None:
        self.open.remove(graph)

    def memory(self) -> tuple[int, int]:
        return self.total - sum(a.nbytes for a in self.held.values()), self.total

    def _made(self, what: str) -> int:
        number = next(self._numbers)
        self.open.add(number)
        return number

    def _of_pinned(self, array: np.ndarray) -> None:
        assert any(np.shares_memory(array, p) for p in self.pinned)


class Mode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


@dataclass(slots=True)
class FakeContext:
    """Doubles ``x`` into ``y``; ``fails`` makes an enqueue fail."""

    device: FakeDevice
    engine: FakeEngine
    profiler: Any = None
    shape: tuple[int, ...] | None = None
    scratch: tuple[int, int] = (0, 0)
    addresses: dict[str, int] = field(default_factory=dict)
    warm: bool = False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "x"
        self.shape, self.warm = shape, False
        return True

    def infer_shapes(self) -> list[str]:
        return [] if self.shape else ["x"]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self.shape is not None and name == "y"
        return self.shape

    def update_device_memory_size_for_shapes(self) -> int:
        assert self.shape is not None
        return 16 * int(np.prod(self.shape))

    def set_device_memory(self, pointer: int, size: int) -> None:
        self.scratch = (pointer, size)

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self.addresses[name] = pointer
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream in self.device.open and self.shape is not None
        if self.engine.fails:
            self.engine.logger.log(1, self.engine.fails)
            return False
        pointer, size = self.scratch
        assert size >= self.update_device_memory_size_for_shapes()
        shape, addresses = self.shape, dict(self.addresses)

        def kernel() -> None:
            count = int(np.prod(shape)) * 4
            assert self.device.held[pointer].nbytes == size
            values = self.device.held[addresses["x"]][:count].view(np.float32)
            self.device.held[addresses["y"]][:count] = (2 * values).view(np.uint8)

        if self.device.recording is not None:
            assert self.warm, "a capture follows a run of the same shapes"
            self.device.recording.append(kernel)
            return True
        self.device.log.append("enqueue")
        self.device.steps += 1
        kernel()
        if self.profiler is not None:
            self.profiler.report_layer_time("double", 0.5 if self.warm else COLD_MS)
            self.profiler.report_layer_time("nothing", 0.0)
        self.warm = True
        return True


@dataclass(slots=True)
class FakeEngine:
    device: FakeDevice
    logger: Any
    fails: str = ""
    num_io_tensors: int = 2
    device_memory_size_v2: int = 16 * int(np.prod(MOST))
    contexts: int = 0

    def get_tensor_name(self, index: int) -> str:
        return ("x", "y")[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if name == "x" else Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return "float"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, -1, WIDTH)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert (name, profile) == ("x", 0)
        return [LEAST, (2, 8, WIDTH), MOST]

    def create_execution_context(self, strategy: Any) -> FakeContext:
        assert strategy == "user managed"
        self.contexts += 1
        return FakeContext(self.device, self)


class FakeRunner:
    """A library with the names that a session reads, over a device."""

    title = "Fake"
    captures_itself = False

    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.engine: FakeEngine | None = None
        self.closed = 0
        self.refuses = ""
        runner = self

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self.logger = logger

            def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
                if plan != PLAN or runner.refuses:
                    self.logger.log(1, runner.refuses or "magic tag is wrong")
                    return None
                runner.engine = FakeEngine(device, self.logger)
                return runner.engine

        class Plain:
            WARNING = 2

        self._library = SimpleNamespace(
            __name__=f"fake{id(self)}",
            __version__="1.2",
            ILogger=Plain,
            IProfiler=Plain,
            Runtime=Runtime,
            TensorIOMode=Mode,
            nptype=lambda kind: np.float32,
            ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
        )

    def library(self) -> Any:
        return self._library

    def prepare(self, runtime: Any, plan: bytes, options: EngineOptions) -> None:
        del runtime, plan, options

    def runtime_config(self, engine: Any, plan_sha256: str, running: Running) -> tuple[None, None]:
        del engine, plan_sha256, running
        return None, None

    def closing(self, cache: Any, plan_sha256: str) -> None:
        assert plan_sha256 == hashlib.sha256(PLAN).hexdigest() and cache is None
        self.closed += 1
