"""What ledgers of plans on a GPU need beside the others: plans compiled once, copies on the device.

Never executed on a GPU by us.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deploy.nvidia.device import Device
from deploy.nvidia.engine import FILE, PlanEngine
from deploy.sessions import Configuration, Engine, Running

_COPIES = 5
_AT_ONCE = 20
_LEAST_BYTES = 2**20


def compiled_once(
    engine: Engine, path: Path, configuration: Configuration, running: Running, folder: Path
) -> Path:
    """Return what to open again and again: of a graph that becomes a plan, a folder with the plan.

    Two compilations of one graph may differ, in names of layers too, and take long.

    Args:
        engine: Any; what others open is returned as it is.
        path: As of :meth:`Engine.open`.
        configuration: The same.
        running: With the shapes to compile for.
        folder: Made for the plan, if there is one.
    """
    if not isinstance(engine, PlanEngine) or path.is_dir():
        return path
    plan, _ = engine.plan_of(path, configuration, running)
    folder.mkdir()
    (folder / FILE).write_bytes(plan)
    return folder


def measure_device_copies(device: Device, size: int) -> tuple[float, int]:
    """Copy within a working set on a GPU; return bytes per second and those touched.

    Args:
        device: The GPU.
        size: Of the working set, in bytes: what is read and what is written together.

    Raises:
        RunError: If the GPU has no room for it.
    """
    part = max(size, _LEAST_BYTES) // 2
    with device.current(), ExitStack() as stack:

        def kept(made: Any, given_back: Callable[[Any], None]) -> Any:
            stack.callback(given_back, made)
            return made

        stream = kept(device.create_stream(), device.destroy_stream)
        start, end = (kept(device.create_event(), device.destroy_event) for _ in range(2))
        source, target = (kept(device.allocate(part), device.free) for _ in range(2))
        fastest = float("inf")
        for _ in range(1 + _COPIES):  # the first wakes the device
            device.record(start, stream)
            for _ in range(_AT_ONCE):
                device.copy(target, source, part, stream)
            device.record(end, stream)
            device.synchronize(stream)
            fastest = min(fastest, device.elapsed_ms(start, end))
    return 2 * part * _AT_ONCE / (fastest / 1e3), 2 * part
