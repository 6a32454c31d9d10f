"""What the engine contract runs: a bare graph built by hand, or a tiny checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from calib.placement import ATTENTION_REASON, Placement, Site
from calib.qdq import insert_qdq
from calib.schemes import Range, params_of_range
from deploy.sessions import BuildRequest, Engine, Running, Shapes
from export.checkpoint import load_checkpoint
from export.matmuls import find_matmuls
from export.onnx_file import load_clean, save_model
from export.passes import clean
from export.passes.simulate import Simulate
from export.reference import open_reference
from export.source import Source, source_from_argument
from export.torch_export import export_module
from tests.deploy.checkpoints import random_model
from tests.export.graphs import graph_from_text, normal
from trueint8.progress import Progress

WIDTH = 64
TEXT = """
tiny (float[batch, t, 64] x) => (float[batch, t, 64] y) {
    [block__up] u = MatMul(x, w0)
    ub = Add(u, b0)
    g = Relu(ub)
    [block__keep] k = MatMul(g, w1)
    kb = Add(k, b1)
    r = Relu(kb)
    [block__down] d = MatMul(r, w2)
    y = Add(d, b2)
}
"""
Feeds = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Subject:
    """A float graph, its Q/DQ graph with clipped ranges, and what both compute.

    Attributes:
        folder: Holds ``float.onnx`` and ``int8.onnx``, and the checkpoint if there is one.
        source: The checkpoint.
        feeds: One batch.
        cut: What part of it gives the same part of the output.
        shapes: What engines must accept.
        kept: Matmuls with weights that carry no Q/DQ.
        quantized: Those that do.
        strange: Names of which no engine may say anything.
        wrong: Shapes that the first input must refuse.
        simulated: The output of the Q/DQ graph in float arithmetic.
        floating: The output of the float graph.
    """

    folder: Path
    source: Source | None
    feeds: Feeds
    cut: tuple[slice, ...]
    shapes: Shapes
    kept: tuple[str, ...]
    quantized: tuple[str, ...]
    strange: tuple[str, ...]
    wrong: tuple[tuple[int, ...], ...]
    simulated: np.ndarray
    floating: np.ndarray

    @property
    def running(self) -> Running:
        """One thread."""
        return Running(1, shapes=self.shapes)

    @property
    def outputs(self) -> Feeds:
        """The output of the Q/DQ graph in float arithmetic, by name."""
        (name,) = (str(v.name) for v in load_clean(self.float_graph).graph.outputs)
        return {name: self.simulated}

    @property
    def float_graph(self) -> Path:
        """The float graph."""
        return self.folder / "float.onnx"

    @property
    def matmuls(self) -> dict[str, str]:
        """All matmuls with the graph output that each gives."""
        found = find_matmuls(load_clean(self.float_graph), modules_named=False)
        return {m.name: m.returns for m in found}

    def request(self, folder: Path, progress: Progress) -> BuildRequest:
        """Return what an engine is built from, into ``folder``."""
        graph = self.folder / "int8.onnx"
        return BuildRequest(graph, folder, self.shapes, progress, source=self.source)


def subject_of(engine: Engine, folder: Path) -> Subject:
    """Make what an engine can be built from."""
    return _checkpoint(folder) if engine.runs_checkpoint else _bare(folder)


def _bare(folder: Path) -> Subject:
    weights = {f"w{i}": normal(i, WIDTH, WIDTH) / 8 for i in range(3)}
    biases = {f"b{i}": normal(5 + i, WIDTH) for i in range(3)}
    save_model(clean(graph_from_text(TEXT, weights | biases)), folder / "float.onnx")
    return _subject(
        folder,
        amax=1.8,
        feeds={"x": normal(9, 2, 8, WIDTH)},
        shapes={"x": ((1, 1, WIDTH), (2, 8, WIDTH), (4, 16, WIDTH))},
        kept=("block.keep",),
        quantized=("block.up", "block.down"),
        cut=(slice(0, 1), slice(0, 3)),
        strange=("block.other", "block", "block.upper", "up"),
        wrong=((2, 8, WIDTH + 1), (WIDTH,)),
    )


def _checkpoint(folder: Path) -> Subject:
    """Make a BERT of one layer whose last projection stays in float."""
    path = folder / "checkpoint"
    random_model("bert-one-layer", 600).save_pretrained(path)
    source = source_from_argument(str(path))
    ids = np.random.default_rng(9).integers(5, 600, (2, 8))
    ones, zeros = np.ones_like(ids), np.zeros_like(ids)
    feeds = {"input_ids": ids, "attention_mask": ones, "token_type_ids": zeros}
    export_module(load_checkpoint(source), [feeds], folder / "float.onnx")
    layer = "encoder.layer.0"
    attention = [f"{layer}.attention.self.{name}" for name in ("query", "key", "value")]
    return _subject(
        folder,
        amax=1.0,
        source=source,
        feeds=feeds,
        shapes={name: ((1, 1), (2, 8), (4, 16)) for name in feeds},
        kept=(f"{layer}.output.dense",),
        quantized=(
            *attention,
            f"{layer}.attention.output.dense",
            f"{layer}.intermediate.dense",
        ),
        cut=(slice(0, 1),),
        strange=("encoder.other", layer, f"{layer}.output.denser", "output.dense"),
        wrong=((2, 8, 1), (8,)),
    )


def _subject(
    folder: Path,
    *,
    amax: float,
    feeds: Feeds,
    kept: tuple[str, ...],
    quantized: tuple[str, ...],
    source: Source | None = None,
    **more: Any,
) -> Subject:
    """Quantize all but ``kept``; ``amax`` clips, so that quantized and float results differ."""
    model = load_clean(folder / "float.onnx")
    matmuls = find_matmuls(model, modules_named=False)
    sites = [Site(m, ATTENTION_REASON if m.name not in quantized else "") for m in matmuls]
    placement = Placement(sites)
    assert sorted(m.name for m in placement.quantized) == sorted(quantized)
    covered = Range(-amax, amax)
    insert_qdq(model, placement, {t: params_of_range(t, covered) for t in placement.tensors})
    save_model(model, folder / "int8.onnx")
    floating = _output(folder / "float.onnx", feeds)
    Simulate()(model)
    with open_reference(ir.to_proto(model).SerializeToString()) as run:
        (simulated,) = run(feeds).values()
    return Subject(
        folder=folder,
        source=source,
        feeds=feeds,
        kept=kept,
        quantized=quantized,
        simulated=simulated,
        floating=floating,
        **more,
    )


def _output(path: Path, feeds: Feeds) -> np.ndarray:
    with open_reference(path) as run:
        (output,) = run(feeds).values()
    return output
