"""Graphs with some matmuls back in float, and their scores on evaluation data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from calib.inputs import GraphInput
from calib.restoring import restore_float
from deploy.bundle import Bundle
from deploy.hardware import default_threads
from deploy.profiling.evaluation import EvaluationSet, Run, output_vectors
from deploy.profiling.scoring import Scores, score
from deploy.sessions import BuildRequest, Configuration, Engine, Running, int8_configuration
from deploy.shapes import engine_shapes
from export.onnx_file import load_clean, save_model
from export.passes.simulate import Simulate
from export.reference import open_reference
from trueint8.progress import Silence

Open = Callable[[Path, Literal["float", "int8"]], contextlib.AbstractContextManager[Run]]
"""Opens a float graph, or a Q/DQ graph as INT8."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """A Q/DQ graph, the float graph it was made of, and what of it can go back to float.

    Attributes:
        float_graph: The graph that Q/DQ were inserted into.
        int8_graph: The Q/DQ graph.
        macs: Multiply-accumulates of every quantized matmul, in the order of the graph.
    """

    float_graph: Path
    int8_graph: Path
    macs: Mapping[str, int]

    @property
    def layers(self) -> list[str]:
        """The quantized matmuls."""
        return list(self.macs)

    def write(self, kept: Collection[str], out: Path) -> None:
        """Write the Q/DQ graph with the matmuls ``kept`` in float.

        Raises:
            ConfigError: If the graph is not of the form that this version writes.
        """
        graph = load_clean(self.int8_graph)
        restore_float(graph, load_clean(self.float_graph), kept)
        save_model(graph, out)


def quantized_from_bundle(bundle: Bundle) -> Quantized:
    """Return the graphs of a bundle."""
    macs = {m.name: m.macs for m in bundle.manifest.matmuls if not m.reason}
    return Quantized(bundle.calibrated_graph, bundle.int8_graph, macs)


@dataclass(slots=True)
class Evaluator:
    """Scores graphs one after the other.

    Attributes:
        graphs: What is chosen from.
        data: Evaluation data.
        open: How a graph is run.
        scratch: A folder for graphs.
    """

    graphs: Quantized
    data: EvaluationSet
    open: Open
    scratch: Path
    _expected: list[np.ndarray] | None = field(default=None, init=False)

    def float_scores(self) -> Scores:
        """Return the scores of the float graph."""
        with self.open(self.graphs.float_graph, "float") as run:
            return score(run, self.data, self._expected)

    def scores(self, kept: Collection[str]) -> Scores:
        """Return the scores with the matmuls ``kept`` in float."""
        if self.data.target == "cosine" and self._expected is None:
            with self.open(self.graphs.float_graph, "float") as run:
                self._expected = output_vectors(run, self.data)
        path = self.scratch / "candidate.onnx"
        self.graphs.write(kept, path)
        with self.open(path, "int8") as run:
            return score(run, self.data, self._expected)


@contextlib.contextmanager
def open_simulated(path: Path, graph: Literal["float", "int8"]) -> Iterator[Run]:
    """Open a graph in FP32 arithmetic; of a Q/DQ graph the values are those of INT8."""
    if graph == "int8":
        model = load_clean(path)
        Simulate()(model)
        path = path.with_name("simulated.onnx")
        save_model(model, path)
    with open_reference(path) as run:
        yield run


def open_on(engine: Engine, inputs: Sequence[GraphInput], batch: Mapping[str, np.ndarray]) -> Open:
    """Return what opens graphs on an engine: the float graph in FP32, and built INT8 engines."""

    @contextlib.contextmanager
    def opened(path: Path, graph: Literal["float", "int8"]) -> Iterator[Run]:
        configuration: Configuration | None = Configuration("float", "fp32")
        if graph == "int8":
            configuration = int8_configuration(engine)
            path = build_engine(engine, path, path.with_name("engine"), inputs, batch)
        assert configuration is not None
        running = Running(default_threads(), shapes=engine_shapes(inputs, batch, None))
        with engine.open(path, configuration, running) as session:
            yield session.run

    return opened


def build_engine(
    engine: Engine,
    graph: Path,
    folder: Path,
    inputs: Sequence[GraphInput],
    batch: Mapping[str, np.ndarray],
) -> Path:
    """Build an engine of a Q/DQ graph into a folder, and return the folder."""
    folder.mkdir(exist_ok=True)
    shapes = engine_shapes(inputs, batch, None)
    engine.build(BuildRequest(graph, folder, shapes, Silence()))
    return folder
