"""Which engines have a ledger here, and which of them probe the machine."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.audit import engine_of
from deploy.bundle import Bundle
from deploy.engine_options import EngineOptions
from deploy.engines import ENGINES
from deploy.nvidia.engine import PlanEngine
from deploy.sessions import Engine
from trueint8.errors import ConfigError, MissingDependency

_TORCH = "torch"


def why_not(bundle: Bundle, name: str) -> str:
    """Return why an engine of a bundle cannot be accounted for, or nothing."""
    engine = engine_of(bundle, name)
    options = bundle.running(name, threads=1).options
    if not engine.runs_here:
        return "it cannot run here"
    if not has_plans(engine) and _on_gpu(engine, options):
        return "it runs on a GPU and does not time its kernels there"
    if options.hint != "latency":
        return (
            "its calls run in parts side by side, and its kernels are timed in one; with the "
            "latency hint, --threads tells what one part does"
        )
    return ""


def _on_gpu(engine: Engine, options: EngineOptions) -> bool:
    if engine.runs_checkpoint:
        from deploy.modules.session import device

        return str(device().type) == "cuda"
    return options.provider != "cpu"


def has_plans(engine: Engine) -> bool:
    """Return whether the engine is of the TensorRT family."""
    return isinstance(engine, PlanEngine)


def probes(*, plans: bool) -> list[Engine]:
    """Return every installed engine of the GPU, or of the processor, where torch is one of them."""
    every: list[Engine] = [ENGINES.load(name) for name in ENGINES.names()]
    found = [engine for engine in every if _installed(engine) and engine.runs_here]
    if plans:
        return [engine for engine in found if has_plans(engine)]
    return [
        engine
        for engine in found
        if not has_plans(engine)
        and (engine.name == _TORCH or not engine.runs_checkpoint)
        and not _on_gpu(engine, EngineOptions())
    ]


def _installed(engine: Engine) -> bool:
    try:
        engine.version()
    except MissingDependency:
        return False
    return True


def chosen_engines(bundle: Bundle, wanted: Sequence[str]) -> list[Engine]:
    """Return the engines of a bundle that have a ledger here: those wanted, or all.

    Raises:
        ConfigError: If a wanted one has none, or none has.
    """
    reasons = {name: why_not(bundle, name) for name in wanted or bundle.manifest.engines}
    found = [name for name, reason in reasons.items() if not reason]
    if len(found) < len(wanted) or not found:
        name, reason = next((n, r) for n, r in reasons.items() if r)
        raise ConfigError(
            f"there is no ledger of {name}: {reason}",
            fix="pass --engine with others of the bundle",
        )
    return [engine_of(bundle, name) for name in found]
