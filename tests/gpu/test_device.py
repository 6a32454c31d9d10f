"""The GPU through each package that is installed for it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest

from deploy.ledger.plans import measure_device_copies
from deploy.nvidia.buffers import TensorBuffer
from deploy.nvidia.device import Device
from trueint8.errors import RunError

pytestmark = pytest.mark.gpu

PACKAGES = {
    "cuda": ("deploy.nvidia.with_cuda_python", "CudaPython"),
    "pycuda": ("deploy.nvidia.with_pycuda", "PyCuda"),
}


@pytest.fixture(params=PACKAGES)
def device(request: pytest.FixtureRequest, capability: str) -> Iterator[Device]:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    module, name = PACKAGES[request.param]
    opened: Device = getattr(importlib.import_module(module), name)()
    with opened.current():
        yield opened


def test_what_is_copied_in_comes_back(device: Device) -> None:
    stream, buffer = device.create_stream(), TensorBuffer(device)
    values = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    for shape in ((3, 5), (2, 2)):
        assert buffer.reserve(values.nbytes) == (shape == (3, 5))
        host = buffer.host(shape, values.dtype)
        host[:] = values[: shape[0], : shape[1]]
        device.copy_in(buffer.pointer, host, stream)
        device.synchronize(stream)
        host[:] = 0
        device.copy_out(host, buffer.pointer, stream)
        device.synchronize(stream)
        np.testing.assert_array_equal(host, values[: shape[0], : shape[1]])
    buffer.free()
    device.destroy_stream(stream)


def test_copies_on_the_device_take_time(device: Device) -> None:
    rate, touched = measure_device_copies(device, 1 << 28)
    assert touched == 1 << 28 and 1e9 < rate < 1e15


def test_events_tell_an_order(device: Device) -> None:
    stream = device.create_stream()
    start, end = device.create_event(), device.create_event()
    device.record(start, stream)
    device.record(end, stream)
    device.synchronize(stream)
    assert device.elapsed_ms(start, end) >= 0
    device.destroy_event(start)
    device.destroy_event(end)
    device.destroy_stream(stream)


def test_a_recorded_copy_is_done_at_every_launch(device: Device) -> None:
    if not device.captures:
        pytest.skip("this package has no CUDA graphs")
    stream, buffer = device.create_stream(), TensorBuffer(device)
    buffer.reserve(1024)
    host = buffer.host((256,), np.dtype(np.float32))
    device.begin_capture(stream)
    device.copy_in(buffer.pointer, host, stream)
    graph = device.end_capture(stream)
    back = device.allocate_pinned(1024).view(np.float32)
    for value in (1.0, 2.0):
        host[:] = value
        device.launch(graph, stream)
        device.copy_out(back, buffer.pointer, stream)
        device.synchronize(stream)
        assert (back == value).all()
    device.destroy_graph(graph)
    device.free_pinned(back)
    buffer.free()
    device.destroy_stream(stream)


def test_too_much_is_told_with_its_size(device: Device) -> None:
    _, total = device.memory()
    with pytest.raises(RunError, match="out of GPU memory") as caught:
        device.allocate(2 * total)
    assert f"{2 * total / 2**20:.1f} MiB more are needed" in caught.value.problem
    pointer = device.allocate(1 << 20)
    device.free(pointer)
