"""What every engine offers: build, audit, and sessions that run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np

from calib.inputs import GraphInput
from calib.placement import Rules
from deploy.engine_options import EngineOptions
from deploy.kernels import Kernel
from export.source import Source
from trueint8.progress import Progress

Precision = Literal["fp32", "bf16", "fp16"]
Graph = Literal["float", "int8", "simulated"]

Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Per input: smallest, most usual, and largest shape an engine must accept."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a session executes: which graph, and what runs in float runs in ``rest``.

    ``mode`` tells the ways apart in which an engine runs one graph, such as ``eager``.
    """

    graph: Graph
    rest: Precision
    mode: str = ""

    @property
    def name(self) -> str:
        """Such as ``float-bf16``, ``float-fp16-eager`` or ``int8``."""
        whole = self.graph if self.graph == "int8" else f"{self.graph}-{self.rest}"
        return f"{whole}-{self.mode}" if self.mode else whole


@dataclass(frozen=True, slots=True)
class Running:
    """How a session runs what it is given.

    Attributes:
        threads: Intra-op threads on the processor.
        options: Those the engine was built with.
        shapes: What a graph that is compiled when it is opened must accept.
        profiled: Whether :meth:`Session.kernel_times` will be asked; it slows every run.
        streams: How many requests will run at a time: see :func:`open_streams`.
    """

    threads: int
    options: EngineOptions = EngineOptions()
    shapes: Shapes | None = None
    profiled: bool = False
    streams: int = 1

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Running:
        """Read what :meth:`to_plain` gave, also after JSON."""
        shapes = plain["shapes"]
        return cls(
            threads=plain["threads"],
            options=EngineOptions.from_plain(plain["options"]),
            shapes=shapes and shapes_from_plain(shapes),
            profiled=plain["profiled"],
            streams=plain["streams"],
        )


def shapes_from_plain(plain: Mapping[str, Any]) -> Shapes:
    """Read :data:`Shapes` after JSON, which made lists of them."""
    found = {}
    for name, (least, usual, most) in plain.items():
        found[name] = (tuple(least), tuple(usual), tuple(most))
    return found


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What an engine is built from, and where its files go.

    Attributes:
        int8_graph: The Q/DQ graph, in the form that the engine takes.
        folder: Empty; gets the engine's files.
        shapes: What it must accept.
        progress: Where progress is shown.
        options: What it was asked for; it reads those it names in :attr:`Engine.options`.
        source: The model before export; None for a graph of unknown origin.
    """

    int8_graph: Path
    folder: Path
    shapes: Shapes
    progress: Progress
    options: EngineOptions = EngineOptions()
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What an engine's files need of the machine that runs them, beside that of the build.

    Attributes:
        version: Of the engine's library, against that of the build.
        system: Whether operating system and processor architecture must be those of the build.
        features: Processor features one of which must be here if the build's machine had one.
        capabilities: NVIDIA compute capabilities the files run on, such as ``8.9``, or ``8.0+``
            with all later ones; :data:`BUILT_CAPABILITY` for that of the build. Empty: no GPU.
    """

    version: Literal["same", "not older", "any"] = "not older"
    system: bool = False
    features: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()


BUILT_CAPABILITY = "built"

VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Without any, x86 adds pairs of products in 16 bits, which overflow: other results, no error."""


class Session(Protocol):
    """A loaded engine; a context manager.

    Any number of threads may call :meth:`run` at a time, and other threads of Python go on while
    the engine computes. What the engine can run one at a time only, it queues.
    """

    inputs: list[GraphInput]

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch.

        Raises:
            RunError: If an input is missing or the engine fails.
        """

    def kernel_times(self) -> dict[str, float]:
        """Return nanoseconds per run since the session was opened, by :attr:`Kernel.name`.

        Raises:
            RunError: If the session was not opened with ``profiled``, or nothing ran.
        """

    def close(self) -> None:
        """Free what the engine holds."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Engine(Protocol):
    """One way to execute a graph."""

    name: str
    placement: Rules
    """Which attentions it fuses in INT8, and the type of the rest of its graph."""

    options: frozenset[str]
    """The fields of :class:`EngineOptions` that it reads."""

    runs_checkpoint: bool
    """Whether it runs the checkpoint's own modules: every configuration opens its folder."""

    @property
    def runs_here(self) -> bool:
        """Whether this machine can run what is built; False means BUILT only."""

    @property
    def builds_here(self) -> bool:
        """Whether this machine can build, once the library is installed."""

    def version(self) -> str:
        """Return the version of the library behind it.

        Raises:
            MissingDependency: If it is not installed; the fix is the install command.
        """

    def needs(self, options: EngineOptions) -> Needs:
        """Return what files built with these options need of a machine."""

    def floats(self) -> list[Configuration]:
        """Return every way to run the float model on this machine; FP32 first.

        The first with each precision is the engine's usual one.
        """

    def int8_rest(self) -> Precision | None:
        """Return what the float part of the INT8 engine runs in; None if it has no INT8."""

    def build(self, request: BuildRequest) -> None:
        """Write the engine's files into ``request.folder``.

        Raises:
            BuildError: If the engine refuses the graph; holds every line it logged.
        """

    def audit(
        self,
        path: Path,
        configuration: Configuration,
        running: Running,
        matmuls: Mapping[str, str],
    ) -> list[Kernel]:
        """Return what the engine executes, read from the engine itself, in its order.

        Args:
            path: As of :meth:`open`.
            configuration: As of :meth:`open`.
            running: As of :meth:`open`.
            matmuls: Every matmul and convolution of the float graph, with the graph output
                it gives, or "".
        """

    def open(self, path: Path, configuration: Configuration, running: Running) -> Session:
        """Load a float or simulated graph (``path`` is an ``.onnx`` file) or the INT8 folder.

        Raises:
            RunError: If this machine cannot run it.
        """


@runtime_checkable
class Shared(Protocol):
    """A session whose engine other sessions can share."""

    def another(self) -> Session:
        """Return a session that may run at the same time; closing this one ends both."""


def open_streams(
    engine: Engine, path: Path, configuration: Configuration, running: Running
) -> list[Session]:
    """Return as many sessions as ``running`` has streams, which may run at the same time.

    They share one engine where it can be shared, else each has its share of the threads.

    Raises:
        RunError: If this machine cannot run it.
    """
    if running.streams == 1:
        return [engine.open(path, configuration, running)]
    first = engine.open(path, configuration, running)
    if isinstance(first, Shared):
        return [first, *(first.another() for _ in range(running.streams - 1))]
    first.close()
    alone = replace(running, threads=max(1, running.threads // running.streams), streams=1)
    return [engine.open(path, configuration, alone) for _ in range(running.streams)]


def int8_configuration(engine: Engine) -> Configuration | None:
    """Return how an engine runs its INT8 graph on this machine; None if it has no INT8."""
    rest = engine.int8_rest()
    return None if rest is None else Configuration("int8", rest)


def check_inputs(inputs: list[GraphInput], arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse a batch that lacks an input or has one of another dtype, rank or width.

    Engines that take any shape would compute nonsense of some of them.

    Raises:
        RunError: Naming the input.
    """
    from trueint8.errors import RunError

    for item in inputs:
        if item.name not in arrays:
            raise RunError(
                f"input {item.name!r} is missing; got: {', '.join(arrays) or 'nothing'}",
                fix=f"pass arrays named {', '.join(i.name for i in inputs)}",
            )
        if arrays[item.name].dtype != item.dtype:
            raise RunError(
                f"input {item.name!r} has dtype {arrays[item.name].dtype}, not {item.dtype}",
                fix=f"convert it with .astype({item.dtype.name!r})",
            )
        have = arrays[item.name].shape
        fits = len(have) == len(item.shape) and all(
            want in (None, axis) for want, axis in zip(item.shape, have, strict=True)
        )
        if not fits:
            shape = ", ".join("any" if d is None else str(d) for d in item.shape)
            raise RunError(
                f"input {item.name!r} has shape {have}, the model takes ({shape})",
                fix="pass arrays of the model's shapes",
            )
