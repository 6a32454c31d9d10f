"""Which engines a build is for: those named, or those that suit machine and model."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.checkpoint_files import checkpoint_source
from deploy.commands.build import BuildOptions
from deploy.engines import ENGINES
from deploy.sessions import Engine
from export.source import Source
from trueint8.errors import BuildError, ConfigError, MissingDependency


def choose_engines(text: str) -> list[str]:
    """Return engine names for ``auto``, ``all`` (that are installed and build here), or a list.

    Raises:
        UnknownName: If there is no engine of that name.
    """
    names = ENGINES.names()
    if text == "all":
        return [n for n in names if _installed(n) and ENGINES.load(n).builds_here]
    if text != "auto":
        chosen = [part.strip() for part in text.split(",") if part.strip()]
        for name in chosen:
            ENGINES.load(name)
        if not chosen:
            raise ConfigError("--engine is empty", fix=f"choose auto, all, or {', '.join(names)}")
        return list(dict.fromkeys(chosen))
    here = "tensorrt" if ENGINES.load("tensorrt").runs_here else "openvino"
    return [here, *(["tensorrt-rtx"] if _installed("tensorrt-rtx") else [])]


def engine_versions(engines: Sequence[str]) -> dict[str, str]:
    """Return the version of each engine's library.

    Raises:
        MissingDependency: If one is not installed.
    """
    return {name: ENGINES.load(name).version() for name in engines}


def left_out_engines(engines: list[str], source: Source, options: BuildOptions) -> dict[str, str]:
    """Return which of ``all`` engines cannot run a source as it is asked for, and why.

    Raises:
        BuildError: If one that was named cannot run it.
        ConfigError: If one that was named cannot run it with these options.
    """
    found = {}
    for name in engines:
        try:
            _check_checkpoint_engine(ENGINES.load(name), source, options)
        except (BuildError, ConfigError) as err:
            if options.engine != "all":
                raise
            found[name] = err.problem
    return found


def _check_checkpoint_engine(engine: Engine, source: Source, options: BuildOptions) -> None:
    if not engine.runs_checkpoint:
        return
    checkpoint_source(engine.name, source)
    if engine.int8_rest() is not None and (options.groups > 1 or options.float_channels > 0):
        raise ConfigError(
            f"the engine {engine.name} has one scale per activation and splits no channels",
            fix=f"leave out --groups and --float-channels, or {engine.name} in --engine",
        )


def _installed(engine: str) -> bool:
    try:
        ENGINES.load(engine).version()
    except MissingDependency:
        return False
    return True


def refuse_unbuildable(engines: Sequence[str]) -> None:
    """Say before the calibration what would only be said after it."""
    for name in engines:
        if not ENGINES.load(name).builds_here:
            others = [n for n in ENGINES.names() if ENGINES.load(n).builds_here]
            raise BuildError(
                f"{name} builds on the GPU that it builds for, and there is none here",
                fix=f"build on that machine, or choose from: {', '.join(others)}",
            )
