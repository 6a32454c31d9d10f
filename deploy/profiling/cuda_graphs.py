"""CUDA graphs turned on or off for a profile, whatever the engine was built for."""

from __future__ import annotations

from dataclasses import replace

from deploy.engines import ENGINES
from deploy.sessions import Configuration, Engine, Running
from trueint8.errors import ConfigError, RunError

_OPTION = "cuda_graph"


def check_has_cuda_graphs(engine: Engine, wanted: bool | None) -> None:
    """Refuse an engine that has no CUDA graphs, where they are to be on or off.

    Raises:
        ConfigError: Naming the engines that have them.
    """
    if wanted is None or _OPTION in engine.options:
        return
    having = [name for name in ENGINES.names() if _OPTION in ENGINES.load(name).options]
    raise ConfigError(
        f"{engine.name} has no CUDA graphs to turn {'on' if wanted else 'off'}",
        fix=f"leave --cuda-graph out, or pass --engine {','.join(having)}",
    )


def with_cuda_graph(running: Running, wanted: bool | None) -> Running:
    """Return how an engine runs with CUDA graphs on or off; None changes nothing."""
    if wanted is None:
        return running
    return replace(running, options=replace(running.options, cuda_graph=wanted))


def check_cuda_graph(
    wanted: bool | None, captures: bool | None, label: str, configuration: Configuration
) -> None:
    """Refuse a session that does not do what was asked for.

    Configurations with a mode, such as ``eager``, may have none: their rows say so.

    Args:
        wanted: What was asked for; None for nothing.
        captures: What the session says.
        label: What was opened, for the message.
        configuration: That was opened.

    Raises:
        RunError: If there is no GPU under it, or CUDA graphs stay off.
    """
    if wanted is None or captures == wanted or (captures is False and configuration.mode):
        return
    why = "runs on a processor" if captures is None else "captures no CUDA graph here"
    raise RunError(
        f"{label} {why}, and --cuda-graph {'on' if wanted else 'off'} was asked for",
        fix="leave --cuda-graph out, or profile on an NVIDIA GPU with cuda-python installed",
    )
