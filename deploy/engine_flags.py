"""The flags that engines read, to :class:`EngineOptions`; and which shapes they must accept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import click

from deploy.commands.calibrate import CalibrationOptions
from deploy.engine_options import GPU_TARGETS, EngineOptions
from deploy.options import option
from trueint8.errors import ConfigError
from trueint8.registry import did_you_mean

_FLAGS = {"workspace_mib": "workspace", "cuda_graph": "no_cuda_graph"}
"""Where a flag is not called as the option it sets."""

_LEVELS = range(6)


def _known(name: str) -> tuple[str, ...]:
    """Return the values that an option of :class:`EngineOptions` can have."""
    return get_args(get_type_hints(EngineOptions)[name])


@dataclasses.dataclass(frozen=True, slots=True)
class EngineFlags(CalibrationOptions):
    """What engines can be told beside the graph."""

    provider: str = option(
        "cpu", type=click.Choice(_known("provider")), help="Execution provider of onnxruntime."
    )
    hint: str = option(
        "latency", type=click.Choice(_known("hint")), help="What openvino compiles for."
    )
    gpu: str | None = option(
        help="Targets of a tensorrt-rtx plan, such as sm86,sm89,sm120.  [default: all but sm75]"
    )
    workspace: int | None = option(
        type=int, help="Most scratch memory of a TensorRT kernel, MiB.  [default: the library's]"
    )
    opt_level: int | None = option(
        type=int,
        help="Builder optimization level of tensorrt, 0 to 5: higher builds longer and may run "
        "faster.  [default: the library's]",
    )
    timing_cache: str | None = option(
        help="File in which tensorrt keeps kernel timings, for later builds on this GPU."
    )
    version_compatible: bool = option(
        False, type=bool, help="Let later versions run a tensorrt plan."
    )
    hardware_compatible: str = option(
        "none",
        type=click.Choice(_known("hardware_compatible")),
        help="Other GPUs that may run a tensorrt plan.",
    )
    no_cuda_graph: bool = option(
        False, type=bool, help="Launch kernels one by one instead of as a CUDA graph."
    )
    min_shapes: str | None = option(
        help="Smallest inputs that engines with fixed profiles must accept, such as "
        "input_ids:1x16; inputs of the same shape that are not named follow.  [default: 1 of "
        "everything]"
    )
    opt_shapes: str | None = option(
        help="Inputs that they are tuned for.  [default: a calibration batch]"
    )
    max_shapes: str | None = option(
        help="Largest inputs that they must accept.  [default: a calibration batch, of 512 tokens "
        "or the model's positions if fewer]"
    )


def engine_options(flags: EngineFlags, engines: Sequence[str]) -> EngineOptions:
    """Return what flags say to the engines of a build.

    Args:
        flags: As given.
        engines: Names of the engines to build.

    Raises:
        ConfigError: If a value is out of range, or no engine of the build reads it.
    """
    options = EngineOptions(
        provider=_choice(flags, "provider"),
        hint=_choice(flags, "hint"),
        gpu=_targets(flags.gpu),
        workspace_mib=flags.workspace,
        opt_level=flags.opt_level,
        timing_cache=flags.timing_cache,
        version_compatible=flags.version_compatible,
        hardware_compatible=_choice(flags, "hardware_compatible"),
        cuda_graph=not flags.no_cuda_graph,
    )
    if flags.workspace is not None and flags.workspace < 1:
        raise ConfigError(
            f"--workspace is {flags.workspace} MiB; expected 1 or more", fix="pass --workspace 4096"
        )
    if flags.opt_level is not None and flags.opt_level not in _LEVELS:
        raise ConfigError(
            f"--opt-level is {flags.opt_level}; expected 0 to {_LEVELS[-1]}",
            fix=f"pass --opt-level {_LEVELS[-1]}",
        )
    _refuse_unread(options, engines)
    return options


def _choice(flags: EngineFlags, name: str) -> Any:
    value, known = getattr(flags, name), _known(name)
    if value not in known:
        flag = f"--{name.replace('_', '-')}"
        raise ConfigError(
            f"{flag} is {value!r}",
            fix=f"{did_you_mean(str(value), known)}choose one of: {', '.join(known)}",
        )
    return value


def _targets(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in GPU_TARGETS:
            raise ConfigError(
                f"--gpu: TensorRT-RTX compiles for no {name!r}",
                fix=f"{did_you_mean(name, GPU_TARGETS)}choose from: {', '.join(GPU_TARGETS)}",
            )
    if not names:
        raise ConfigError("--gpu is empty", fix=f"choose from: {', '.join(GPU_TARGETS)}")
    return tuple(dict.fromkeys(names))


def _refuse_unread(options: EngineOptions, engines: Sequence[str]) -> None:
    from deploy.engines import ENGINES

    for name in options.to_plain():
        readers = [e for e in ENGINES.names() if name in ENGINES.load(e).options]
        if not set(readers) & set(engines):
            flag = f"--{_FLAGS.get(name, name).replace('_', '-')}"
            raise ConfigError(
                f"{flag} means nothing to {', '.join(engines)}",
                fix=f"leave it out, or build with --engine {' or '.join(readers)}"
                if readers
                else "leave it out",
            )
