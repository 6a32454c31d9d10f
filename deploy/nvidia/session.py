"""A plan that runs: buffers, one stream, and a CUDA graph for each shape."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from calib.inputs import GraphInput
from deploy.nvidia.buffers import DeviceBuffer, TensorBuffer
from deploy.nvidia.device import Device, out_of_memory, process_memory
from deploy.nvidia.library import listed, log_lines
from deploy.nvidia.loading import Loader, load_plan, tells_of_memory
from deploy.sessions import Running, check_inputs
from trueint8.errors import RunError

if TYPE_CHECKING:
    import tensorrt as trt

MOST_GRAPHS = 16
"""Shapes whose CUDA graphs are kept; beyond, that of the shape not used for longest goes."""

_NS_PER_MS = 1_000_000

ShapeKey = tuple[tuple[int, ...], ...]


class Runner(Loader, Protocol):
    """What is particular to one of the two libraries when a plan runs."""

    captures_itself: bool
    """Whether contexts capture CUDA graphs by themselves."""

    def runtime_config(
        self, engine: trt.ICudaEngine, plan_sha256: str, running: Running
    ) -> tuple[trt.IRuntimeConfig | None, trt.IRuntimeCache | None]:
        """Return how contexts are created, None for the library's own way, and a kernel cache."""

    def closing(self, cache: trt.IRuntimeCache | None, plan_sha256: str) -> None:
        """Keep what is worth keeping for later sessions."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of GPU memory: of a session's parts, and of the whole process; None is not told."""

    weights: int | None
    activations: int
    inputs_and_outputs: int
    process: int | None


@dataclass(slots=True)
class _Prepared:
    """A context whose shapes and addresses are set, and its graph once it is captured."""

    context: trt.IExecutionContext
    shapes: ShapeKey | None = None
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    graph: Any = None


class PlanSession:
    """One plan on the GPU.

    A CUDA graph holds addresses and the state of the context it was captured from, so each
    shape has a context of its own, and all contexts share one block of scratch memory.

    Attributes:
        inputs: In the plan's order.
        captures: Whether runs replay a CUDA graph, captured here or by the library.
        device_ns: Nanoseconds between the events around the last run's kernels, without copies.
        copied_ns: The same around its copies too.
    """

    def __init__(
        self, runner: Runner, plan: bytes, where: str, running: Running, device: Device
    ) -> None:
        self._runner, self._device = runner, device
        self._sha256 = hashlib.sha256(plan).hexdigest()
        self._library = library = runner.library()
        self._prepared: OrderedDict[ShapeKey | None, _Prepared] = OrderedDict()
        self._scratch = DeviceBuffer(device)
        self.device_ns = self.copied_ns = 0
        self._runs = 0
        self._first_ms: dict[str, float] = {}
        self._lock = threading.Lock()  # buffers and stream are those of one run at a time
        self._profiler = _profiler(library) if running.profiled else None
        options = running.options
        graphs = options.cuda_graph and device.captures and not running.profiled
        self.captures = graphs
        self._captures = graphs and not runner.captures_itself
        with device.current(), log_lines(self._library) as lines:
            self._runtime, self._engine = load_plan(runner, plan, where, options, device, lines)
            self._config, self._cache = runner.runtime_config(self._engine, self._sha256, running)
            self._read_tensors()
            self._stream = device.create_stream()
            self._start, self._end = device.create_event(), device.create_event()
            self._entry, self._exit = device.create_event(), device.create_event()

    def _read_tensors(self) -> None:
        library, engine = self._library, self._engine
        self.inputs: list[GraphInput] = []
        self._bounds: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self._dtypes: dict[str, np.dtype] = {}
        self._buffers: dict[str, TensorBuffer] = {}
        self._outputs: list[str] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            self._dtypes[name] = np.dtype(library.nptype(engine.get_tensor_dtype(name)))
            self._buffers[name] = TensorBuffer(self._device)
            if engine.get_tensor_mode(name) == library.TensorIOMode.OUTPUT:
                self._outputs.append(name)
                continue
            shape = tuple(None if d == -1 else int(d) for d in engine.get_tensor_shape(name))
            self.inputs.append(GraphInput(name, self._dtypes[name], shape))
            least, _, most = engine.get_tensor_profile_shape(name, 0)
            self._bounds[name] = (tuple(least), tuple(most))

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch; outputs are copies, floats of any width as float32."""
        check_inputs(self.inputs, arrays)
        self._check_bounds(arrays)
        with self._lock, self._device.current(), log_lines(self._library) as lines:
            prepared = self._prepare(arrays, lines)
            self._device.record(self._entry, self._stream)
            for item in self.inputs:
                array, buffer = arrays[item.name], self._buffers[item.name]
                host = buffer.host(array.shape, item.dtype)
                np.copyto(host, array)
                self._device.copy_in(buffer.pointer, host, self._stream)
            self._execute(prepared, lines)
            hosts = {}
            for name, shape in prepared.outputs.items():
                hosts[name] = self._buffers[name].host(shape, self._dtypes[name])
                self._device.copy_out(hosts[name], self._buffers[name].pointer, self._stream)
            self._device.record(self._exit, self._stream)
            self._device.synchronize(self._stream)
            self.device_ns = self._elapsed_ns(self._start, self._end)
            self.copied_ns = self._elapsed_ns(self._entry, self._exit)
            if self._captures and prepared.graph is None:
                self._capture(prepared, lines)
            self._runs += 1
            if self._profiler is not None and self._runs == 1:
                self._first_ms = dict(self._profiler.totals_ms)
            return {name: _copied(host) for name, host in hosts.items()}

    def _elapsed_ns(self, start: Any, end: Any) -> int:
        return round(self._device.elapsed_ms(start, end) * _NS_PER_MS)

    def _check_bounds(self, arrays: Mapping[str, np.ndarray]) -> None:
        for name, (least, most) in self._bounds.items():
            shape = arrays[name].shape
            fits = len(shape) == len(least) and all(
                low <= axis <= high for low, axis, high in zip(least, shape, most, strict=True)
            )
            if not fits:
                raise RunError(
                    f"input {name!r} has shape {_x(shape)}; the plan was built for "
                    f"{_x(least)} to {_x(most)}",
                    fix="pass such shapes, or build with --min-shapes and --max-shapes that hold "
                    "these",
                )

    def _prepare(self, arrays: Mapping[str, np.ndarray], lines: list[str]) -> _Prepared:
        """Return a context for these shapes, with memory behind every address it has."""
        shapes: ShapeKey = tuple(tuple(arrays[item.name].shape) for item in self.inputs)
        key = shapes if self._captures else None
        prepared = self._prepared.get(key)
        if prepared is None:
            self._forget(keep=MOST_GRAPHS - 1)
            prepared = self._prepared[key] = _Prepared(self._create_context(lines))
        self._prepared.move_to_end(key)
        if prepared.shapes != shapes:
            try:
                moved = self._set_shapes(prepared, shapes)
                self._set_addresses(prepared)
            except RunError:
                self._forget(keep=0)  # memory may have moved before it failed
                raise
            prepared.shapes = shapes
            if moved:  # whatever else was prepared holds addresses that are no more
                del self._prepared[key]
                self._forget(keep=0)
                self._prepared[key] = prepared
        return prepared

    def _create_context(self, lines: list[str]) -> trt.IExecutionContext:
        context: trt.IExecutionContext | None
        if self._config is not None:
            context = self._engine.create_execution_context(self._config)
        else:
            context = self._engine.create_execution_context(
                self._library.ExecutionContextAllocationStrategy.USER_MANAGED
            )
        if context is None:
            self._raise_if_memory(lines, self._engine.device_memory_size_v2)
            raise self._failed("cannot create an execution context", lines)
        if self._profiler is not None:
            context.profiler = self._profiler
        return context

    def _set_shapes(self, prepared: _Prepared, shapes: ShapeKey) -> bool:
        """Set shapes and reserve memory for them; return whether any address changed."""
        context = prepared.context
        for item, shape in zip(self.inputs, shapes, strict=True):
            if not context.set_input_shape(item.name, shape):
                raise self._failed(f"does not take {_x(shape)} for input {item.name!r}", [])
        unknown = context.infer_shapes()
        if unknown:
            raise self._failed(f"cannot tell the shapes that follow from {unknown}", [])
        prepared.outputs = {name: tuple(context.get_tensor_shape(name)) for name in self._outputs}
        sizes = dict(zip((i.name for i in self.inputs), shapes, strict=True)) | prepared.outputs
        for name in self._outputs:
            if -1 in sizes[name]:
                raise self._failed(f"tells the shape of output {name!r} only after the run", [])
        moved = self._scratch.reserve(max(context.update_device_memory_size_for_shapes(), 1))
        for name, shape in sizes.items():
            size = int(np.prod(shape, dtype=np.int64)) * self._dtypes[name].itemsize
            moved |= self._buffers[name].reserve(size)
        return moved

    def _set_addresses(self, prepared: _Prepared) -> None:
        prepared.context.set_device_memory(self._scratch.pointer, self._scratch.size)
        for name, buffer in self._buffers.items():
            if not prepared.context.set_tensor_address(name, buffer.pointer):
                raise self._failed(f"does not take an address for {name!r}", [])

    def _execute(self, prepared: _Prepared, lines: list[str]) -> None:
        self._device.record(self._start, self._stream)
        if prepared.graph is not None:
            self._device.launch(prepared.graph, self._stream)
        elif not prepared.context.execute_async_v3(self._stream):
            self._raise_if_memory(lines, self._engine.device_memory_size_v2)
            raise self._failed("failed", lines)
        self._device.record(self._end, self._stream)

    def _capture(self, prepared: _Prepared, lines: list[str]) -> None:
        """Record the kernels of a context that has run once, as TensorRT asks."""
        self._device.begin_capture(self._stream)
        entered = prepared.context.execute_async_v3(self._stream)
        try:
            prepared.graph = self._device.end_capture(self._stream)
        except RunError as err:
            raise self._not_capturable(lines) from err
        if not entered:
            raise self._not_capturable(lines)

    def _not_capturable(self, lines: list[str]) -> RunError:
        return RunError(
            f"{self._runner.title} cannot run this plan in a CUDA graph:\n    {listed(lines)}",
            fix="build with --no-cuda-graph",
        )

    def kernel_times(self) -> dict[str, float]:
        """Return what TensorRT's profiler was told, per run; of several, without the first."""
        if self._profiler is None or not self._runs:
            raise RunError(
                "there are no kernel times: the session was not opened with profiled=True, "
                "or nothing ran",
                fix="open it with Running(profiled=True) and run a batch first",
            )
        totals: dict[str, float] = self._profiler.totals_ms
        first, runs = (self._first_ms, self._runs - 1) if self._runs > 1 else ({}, 1)
        return {n: (ms - first.get(n, 0.0)) * _NS_PER_MS / runs for n, ms in totals.items()}

    def device_memory(self) -> DeviceMemory:
        """Return what is held on the GPU at this moment."""
        weights = None
        if hasattr(self._engine, "get_engine_stat"):
            weights = self._engine.get_engine_stat(self._library.EngineStat.TOTAL_WEIGHTS_SIZE)
        held = sum(buffer.size for buffer in self._buffers.values())
        return DeviceMemory(weights, self._scratch.size, held, process_memory())

    def _raise_if_memory(self, lines: list[str], needed: int) -> None:
        if tells_of_memory(lines):
            raise out_of_memory(needed, self._device.memory())

    def _failed(self, what: str, lines: list[str]) -> RunError:
        told = f":\n    {listed(lines)}" if lines else ""
        return RunError(
            f"{self._runner.title} {what}{told}",
            fix="check shapes and token ids; if they are right, build the bundle again",
        )

    def _forget(self, keep: int) -> None:
        """Drop what was prepared, but for the ``keep`` used last."""
        while len(self._prepared) > keep:
            _, prepared = self._prepared.popitem(last=False)
            if prepared.graph is not None:
                self._device.destroy_graph(prepared.graph)

    def close(self) -> None:
        """Free everything on the GPU; closing twice is no error."""
        if self._engine is None:
            return
        with self._device.current():
            self._device.synchronize(self._stream)
            self._forget(keep=0)
            self._runner.closing(self._cache, self._sha256)
            self._config = self._cache = self._engine = self._runtime = None
            self._scratch.free()
            for buffer in self._buffers.values():
                buffer.free()
            for event in (self._start, self._end, self._entry, self._exit):
                self._device.destroy_event(event)
            self._device.destroy_stream(self._stream)

    def __enter__(self) -> PlanSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _profiler(library: Any) -> Any:
    """Return a profiler that adds up the milliseconds of each kernel in ``totals_ms``."""

    class Profiler(library.IProfiler):
        def __init__(self) -> None:
            library.IProfiler.__init__(self)
            self.totals_ms: dict[str, float] = {}

        def report_layer_time(self, name: str, ms: float) -> None:
            self.totals_ms[name] = self.totals_ms.get(name, 0.0) + ms

    return Profiler()


def _copied(host: np.ndarray) -> np.ndarray:
    return host.astype(np.float32) if host.dtype.kind == "f" else host.copy()


def _x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
