"""What every engine offers: build, audit, and sessions that run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np

from calib.inputs import GraphInput
from calib.placement import Rules
from trueint8.progress import Progress

Precision = Literal["fp32", "bf16", "fp16"]
Graph = Literal["float", "int8", "simulated"]

Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Per input: smallest, most usual, and largest shape an engine must accept."""

NOT_FOUND = "not found"
"""What an audit says of a matmul the engine no longer names."""

FUSED = "fused"
"""What is said of a float matmul inside a kernel that the engine calls INT8."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a session executes: which graph, and what runs in float runs in ``rest``."""

    graph: Graph
    rest: Precision

    @property
    def name(self) -> str:
        """Such as ``float-bf16`` or ``int8``."""
        return self.graph if self.graph == "int8" else f"{self.graph}-{self.rest}"


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What an engine is built from, and where its files go."""

    int8_graph: Path
    folder: Path
    shapes: Shapes
    progress: Progress


class Session(Protocol):
    """A loaded engine; a context manager."""

    inputs: list[GraphInput]

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch.

        Raises:
            RunError: If an input is missing or the engine fails.
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
    runs_here: bool
    """Whether this machine can run what is built; False means BUILT only."""

    placement: Rules
    """Which attentions it fuses in INT8, and the type of the rest of its graph."""

    def version(self) -> str:
        """Return the version of the library behind it.

        Raises:
            MissingDependency: If it is not installed; the fix is the install command.
        """

    def float_precisions(self) -> list[Precision]:
        """Return every float precision the engine offers on this machine."""

    def int8_rest(self) -> Precision:
        """Return what the float part of the INT8 engine runs in on this machine."""

    def build(self, request: BuildRequest) -> None:
        """Write the engine's files into ``request.folder``.

        Raises:
            BuildError: If the engine refuses the graph; holds every line it logged.
        """

    def audit(self, folder: Path, matmuls: Mapping[str, str]) -> dict[str, str]:
        """Return the precision each matmul executes in, read from the engine itself.

        ``matmuls`` maps each name to the graph output it gives, or to "".
        ``int8`` means both operands are INT8; otherwise a float precision or
        :data:`NOT_FOUND`.
        """

    def open(self, path: Path, configuration: Configuration, threads: int) -> Session:
        """Load a float graph (``path`` is an ``.onnx`` file) or the INT8 engine's folder.

        Raises:
            RunError: If this machine cannot run it.
        """


def executed_precisions(
    engine: Engine, folder: Path, matmuls: Mapping[str, str], floats: Collection[str]
) -> dict[str, str]:
    """Return what an engine's audit says, less what cannot be.

    A matmul that the graph leaves in float has no two INT8 operands. Where the engine calls the
    kernel that took it in INT8, the kernel does more than this matmul, and it is :data:`FUSED`.

    Args:
        engine: That was built.
        folder: Its files.
        matmuls: As of :meth:`Engine.audit`.
        floats: Names of those that the Q/DQ graph leaves in float.
    """
    told = engine.audit(folder, matmuls)
    return {n: FUSED if p == "int8" and n in floats else p for n, p in told.items()}


def check_inputs(inputs: list[GraphInput], arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse a batch that lacks an input or has one of another dtype.

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
