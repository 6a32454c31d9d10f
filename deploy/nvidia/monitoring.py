"""Progress of a build, and Ctrl-C in the middle of one."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt as trt


@contextlib.contextmanager
def signals_recorded() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM for the length of a build and raise them after it.

    A handler that raises inside one of TensorRT's callbacks is swallowed there.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, lambda number, _: seen.append(number)) for kind in kinds}
    try:
        yield seen
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        if seen:
            signal.raise_signal(seen[0])


def progress_monitor(
    library: Any, phase_done: Callable[[int], None], stop: list[int]
) -> trt.IProgressMonitor:
    """Return a progress monitor; it cancels the build once ``stop`` holds a signal."""

    class Monitor(library.IProgressMonitor):
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            del name, parent, steps

        def step_complete(self, name: str, step: int) -> bool:
            del name, step
            return not stop

        def phase_finish(self, name: str) -> None:
            del name
            phase_done(1)

    return Monitor()
