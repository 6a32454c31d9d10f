"""What ledgers of plans on a GPU need beside the others: plans compiled once, copies on the device.

Never executed on a GPU by us.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deploy.graph_shapes import shapes_text
from deploy.ledger.timing import Batch
from deploy.nvidia.device import Device
from deploy.nvidia.engine import FILE, PlanEngine
from deploy.sessions import Configuration, Engine, Running, Shapes
from trueint8.artifacts import storage_errors
from trueint8.errors import ConfigError

_COPIES = 5
_AT_ONCE = 20
_LEAST_BYTES = 2**26
"""Below, starting a copy takes as long as the copy; so caches are never what is measured."""


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
    with storage_errors(folder):
        folder.mkdir()
        (folder / FILE).write_bytes(plan)
    return folder


def check_built_for(shapes: Shapes, batch: Batch) -> None:
    """Refuse a batch that is not within the shapes which a plan was built for.

    Args:
        shapes: The smallest, the usual and the largest by input.
        batch: What it is to be given.

    Raises:
        ConfigError: Naming the first input.
    """
    for name, (least, _, most) in shapes.items():
        shape = batch[name].shape
        if not all(low <= axis <= high for low, axis, high in zip(least, shape, most, strict=True)):
            texts = (shapes_text({name: s}) for s in (shape, least, most))
            given, first, last = texts
            raise ConfigError(
                f"{given} is not within what the plan was built for, {first} to {last}",
                fix="pass --shapes within, or build with --min-shapes and --max-shapes",
            )


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
