"""Memory that grows to the largest it was asked for, on the device and beside it."""

from __future__ import annotations

import numpy as np

from deploy.nvidia.device import Device

_LEAST = 256
"""Bytes; also the alignment that TensorRT wants."""


class DeviceBuffer:
    """Device memory; its pointer changes when it grows."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.pointer = 0
        self.size = 0

    def reserve(self, size: int) -> bool:
        """Hold at least ``size`` bytes; return whether the pointer changed.

        What is held is given back first, so that the two need not be there at once.

        Raises:
            RunError: If the device has not enough.
        """
        if size <= self.size:
            return False
        self.free()
        wanted = max(size, _LEAST)
        self.pointer = self._device.allocate(wanted)
        self.size = wanted
        return True

    def free(self) -> None:
        """Give the memory back."""
        if self.size:
            self._device.free(self.pointer)
        self.pointer = self.size = 0


class TensorBuffer:
    """Device memory of one input or output, and page-locked memory of the same size."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._on_device = DeviceBuffer(device)
        self._host: np.ndarray | None = None

    @property
    def pointer(self) -> int:
        """Of the device memory."""
        return self._on_device.pointer

    @property
    def size(self) -> int:
        """Bytes on the device."""
        return self._on_device.size

    def reserve(self, size: int) -> bool:
        """Hold at least ``size`` bytes on both sides; return whether the pointer changed."""
        if not self._on_device.reserve(size):
            return False
        self._free_host()
        self._host = self._device.allocate_pinned(self._on_device.size)
        return True

    def host(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return the page-locked memory as an array."""
        assert self._host is not None
        count = int(np.prod(shape, dtype=np.int64))
        return self._host[: count * dtype.itemsize].view(dtype).reshape(shape)

    def free(self) -> None:
        """Give both back."""
        self._on_device.free()
        self._free_host()

    def _free_host(self) -> None:
        if self._host is not None:
            self._device.free_pinned(self._host)
        self._host = None
