"""``BUNDLE@ENGINE:CONFIGURATION``: what people name to be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.audit import engine_of
from deploy.bundle import Bundle, open_bundle
from deploy.hardware import default_threads
from deploy.sessions import Configuration, Engine, Running, int8_configuration
from trueint8.errors import ConfigError, UnknownName
from trueint8.registry import did_you_mean


@dataclass(frozen=True, slots=True)
class Side:
    """One configuration of one engine of a bundle."""

    label: str
    bundle: Bundle
    engine: Engine
    configuration: Configuration

    @property
    def path(self) -> Path:
        """What the engine opens."""
        if self.configuration.graph == "int8" or self.engine.runs_checkpoint:
            return self.bundle.engine_folder(self.engine.name)
        return self.bundle.float_graph

    @property
    def running(self) -> Running:
        """How it runs: with what it was built with."""
        return self.bundle.running(self.engine.name, default_threads())

    @property
    def runs_here(self) -> bool:
        """Whether its kernels can be timed on this machine."""
        return self.bundle.manifest.engines[self.engine.name].runs_here


def open_side(text: str) -> Side:
    """Open ``BUNDLE``, ``BUNDLE@ENGINE`` or ``BUNDLE@ENGINE:float-fp32``.

    Without an engine it is the first of the bundle.

    Raises:
        UnknownName: If the bundle has no such engine, or the engine no such configuration.
        IntegrityError: If the bundle is not what its manifest says.
    """
    path, _, rest = text.partition("@") if not Path(text).is_dir() else (text, "", "")
    bundle = open_bundle(Path(path))
    name, _, wanted = rest.partition(":")
    name = name or next(iter(bundle.manifest.engines))
    engine = engine_of(bundle, name)
    rest_of_int8 = bundle.manifest.engines[name].rest
    int8 = [Configuration("int8", rest_of_int8)] if int8_configuration(engine) is not None else []
    offered = {c.name: c for c in (*int8, *engine.floats())}
    wanted = wanted or next(iter(offered))
    if wanted not in offered:
        raise UnknownName(
            f"{name} has no configuration {wanted!r} on this machine",
            fix=f"{did_you_mean(wanted, offered)}choose from: {', '.join(offered)}",
        )
    return Side(f"{bundle.path.name}@{name}:{wanted}", bundle, engine, offered[wanted])


def check_same_inputs(sides: Sequence[Side]) -> None:
    """Refuse models that do not take the same inputs.

    Raises:
        ConfigError: Naming both.
    """
    first, second = (
        [(i.name, i.dtype, i.shape[1:]) for i in side.bundle.manifest.inputs] for side in sides
    )
    if first != second:
        raise ConfigError(
            f"{sides[0].bundle.path} and {sides[1].bundle.path} do not take the same inputs",
            fix="compare bundles of one model, or of one architecture",
        )
