"""What of a bundle is packaged, and for which backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from deploy.bundle import GOLDEN, Bundle
from deploy.engine_options import EngineOptions
from deploy.golden import Golden, read_golden
from deploy.manifest import EngineEntry
from deploy.packaging.backends import BACKENDS
from deploy.packaging.releases import Release
from deploy.serving.model import DYNAMIC_QUANTIZER
from deploy.sessions import Precision, Shapes, shapes_from_plain
from trueint8.errors import ConfigError

Graph = Literal["int8", "float"]
PYTHON = "python"


@dataclass(frozen=True, slots=True)
class Choice:
    """One engine, or the float graph for its backend, of one bundle."""

    bundle: Bundle
    engine: str
    graph: Graph
    release: Release

    @property
    def entry(self) -> EngineEntry:
        """The engine's in the manifest."""
        return self.bundle.manifest.engines[self.engine]

    @property
    def options(self) -> EngineOptions:
        """What the engine was built with."""
        return EngineOptions.from_plain(self.entry.options)

    @property
    def shapes(self) -> Shapes:
        """Smallest, most usual and largest shape of each input."""
        return shapes_from_plain(self.bundle.manifest.shapes)

    @property
    def source_graph(self) -> Path:
        """The ONNX graph that is packaged, or that the packaged engine was built from."""
        if self.graph == "float":
            return self.bundle.float_graph
        return self.bundle.quantized_graph(self.engine)

    @property
    def mixes(self) -> bool:
        """Whether rows of a batch leave one another alone: not with scales of the whole batch."""
        dynamic = self.bundle.manifest.calibration.quantizer == DYNAMIC_QUANTIZER
        return self.graph == "float" or not dynamic

    def golden(self) -> Golden:
        """Read the golden inputs and outputs."""
        return read_golden(self.bundle.path / GOLDEN)

    def usual(self, axis: int) -> int:
        """Return the usual length along the batch (0) or the tokens (1); 1 where there is none."""
        found = [usual[axis] for _, usual, _ in self.shapes.values() if len(usual) > axis]
        return min(found, default=1)

    def most(self, axis: int) -> int:
        """Return the largest length that every input takes; as :meth:`usual`."""
        found = [most[axis] for *_, most in self.shapes.values() if len(most) > axis]
        return min(found, default=1)

    def masks(self, rows: int) -> Mapping[str, np.ndarray]:
        """Return ones for inputs that may not be zeros when a server warms up."""
        return {
            i.name: np.ones(
                (rows, *(self.usual(1) if d is None else d for d in i.shape[1:])), i.dtype
            )
            for i in self.bundle.manifest.graph_inputs()
            if "mask" in i.name
        }


class Backend(Protocol):
    """What turns a choice into files that one backend of Triton loads."""

    name: str
    """Triton's name for it."""

    batches: bool
    """Whether Triton may join requests into batches."""

    def on_gpu(self, choice: Choice) -> bool:
        """Return whether instances belong on GPUs."""

    def write(self, choice: Choice, folder: Path) -> Path | None:
        """Write a version's files.

        Args:
            choice: What is packaged.
            folder: Of the version; empty.

        Returns:
            The file that Triton loads; None where a program loads the bundle.

        Raises:
            ConfigError: If the backend has no way to run this choice.
            BuildError: If the release cannot read it.
        """

    def configure(self, config: Any, choice: Choice, instances: Any) -> None:
        """Set what only this backend has; ``instances`` is the group added before."""

    def rest(self, choice: Choice) -> Precision:
        """Return the precision of what is not INT8, which decides the tolerance."""


def choose(
    bundle: Bundle, engine: str | None, graph: Graph, release: Release, backend: str | None
) -> tuple[Choice, Backend]:
    """Return what is packaged and for which backend.

    Args:
        bundle: Where it comes from.
        engine: Its name; the bundle's first if None.
        graph: Which graph.
        release: The Triton that will read it.
        backend: ``native``, ``python``, or None for the engine's own where Triton has one.

    Raises:
        ConfigError: If the bundle or Triton has no such thing.
    """
    held = bundle.manifest.engines
    name = engine or next(iter(held))
    if name not in held:
        raise ConfigError(
            f"{bundle.path} holds no engine {name!r}", fix=f"choose one of: {', '.join(held)}"
        )
    own = name if name in BACKENDS.names() else PYTHON
    chosen: Backend = BACKENDS.load(PYTHON if backend == PYTHON else own)
    return Choice(bundle, name, graph, release), chosen
