"""The two libraries behind one interface, and the one logger that each wants per process."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trueint8.errors import MissingDependency

if TYPE_CHECKING:
    import tensorrt as trt

_NOISE = "cudaError 35"
"""Printed beside every parser error where there is no driver; says nothing of the graph."""

_logs: dict[str, trt.ILogger] = {}
_listening: dict[str, list[list[str]]] = {}


def load_library(engine: str, module: str, install: str) -> Any:
    """Import an engine's library.

    Args:
        engine: Its name.
        module: Its library's name.
        install: What to type where it is not there.

    Raises:
        MissingDependency: If it is not installed or its shared libraries do not load.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as err:
        absent = isinstance(err, ModuleNotFoundError)
        how = "is not installed" if absent else f"does not load: {err}"
        raise MissingDependency(
            f"the engine {engine} needs the package {module}, which {how}", fix=install
        ) from err


def log_of(library: Any) -> trt.ILogger:
    """Return a library's logger; what it is told goes to every :func:`log_lines`."""
    name = library.__name__
    if name not in _logs:

        class Log(library.ILogger):
            def __init__(self) -> None:
                library.ILogger.__init__(self)

            def log(self, severity: trt.ILogger.Severity, message: str) -> None:
                if severity <= library.ILogger.WARNING and _NOISE not in message:
                    for lines in _listening.get(name, ()):
                        lines.append(message)

        _logs[name] = Log()
    return _logs[name]


@contextlib.contextmanager
def log_lines(library: Any) -> Iterator[list[str]]:
    """Yield a list that gets every warning and error logged during a block.

    A failed build or load only returns None; why, only the log tells.
    """
    lines: list[str] = []
    listening = _listening.setdefault(library.__name__, [])
    listening.append(lines)
    try:
        yield lines
    finally:
        listening[:] = [kept for kept in listening if kept is not lines]


def is_noise(line: str) -> bool:
    """Whether a line says that there is no driver, where none is needed."""
    return _NOISE in line


def listed(lines: list[str]) -> str:
    """Return log lines below one another, each once."""
    return "\n    ".join(dict.fromkeys(line.strip() for line in lines)) or "no reason was logged"
