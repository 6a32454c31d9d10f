"""Which Q/DQ graph an engine of a build gets, and in what form."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from calib.placement import Rules
from calib.quantization import Prepared
from deploy.engines import ENGINES
from deploy.sessions import Engine
from export.onnx_file import load_clean, save_model
from export.overflow import overflowing_values
from export.passes.pad_heads import PadHeads
from export.passes.simulate import Simulate
from export.passes.to_half import half_graph
from export.reference import open_reference
from trueint8.errors import BuildError


def special_rules(engines: Sequence[str]) -> dict[str, Rules]:
    """Return the rules that differ from the common graph's, by the first engine that has them."""
    found: dict[str, Rules] = {}
    for name in engines:
        rules = ENGINES.load(name).placement
        if rules != Rules() and rules not in found.values():
            found[name] = rules
    return found


def decisions(
    engine: Engine, engines: Sequence[str], prepared: Prepared, common: Path
) -> tuple[Path, dict[str, str] | None]:
    """Return an engine's Q/DQ graph, and why matmuls are float in it where its rules are special.

    Args:
        engine: One of them.
        engines: Of the build, as :func:`special_rules` got them.
        prepared: The decisions.
        common: The common Q/DQ graph.
    """
    rules = special_rules(engines).items()
    name = next((name for name, r in rules if r == engine.placement), None)
    if name is None or name not in prepared.special:
        return common, None
    sites = prepared.special[name].sites
    return prepared.file_of(name, common), {s.matmul.name: s.reason for s in sites}


@contextmanager
def engine_graph(
    engine: Engine,
    graph: Path,
    shapes: Mapping[str, tuple[int, ...]],
    batch: Mapping[str, np.ndarray],
    *,
    half: bool,
) -> Iterator[Path]:
    """Yield the Q/DQ graph as the engine takes it: heads padded, the rest in FP16, or as it is.

    Args:
        engine: What it is for.
        graph: With FP32 outside Q/DQ.
        shapes: Of every matmul's operands.
        batch: Calibration data, to see whether FP16 holds its values.
        half: Whether the rest is FP16.

    Raises:
        ExportError: If the graph cannot be written in FP16.
        BuildError: If it overflows in FP16 on a batch.
    """
    if not (half or engine.placement.head_widths):
        yield graph
        return
    model = load_clean(graph)
    PadHeads(shapes)(model)
    if half:
        model = half_graph(model)
    with tempfile.TemporaryDirectory(dir=graph.parent) as scratch:
        path = Path(scratch) / graph.name
        save_model(model, path)
        if half:
            _refuse_overflow(path, batch, Path(scratch))
        yield path


def _refuse_overflow(path: Path, batch: Mapping[str, np.ndarray], scratch: Path) -> None:
    broken = overflowing_values(path, batch, scratch=scratch)
    if broken:
        more = f" and {len(broken) - 1} other values" if broken[1:] else ""
        raise BuildError(
            f"outside the INT8 matmuls FP16 cannot hold {broken[0]!r}{more} on calibration data",
            fix="pass --fp32-rest",
        )


def simulated_outputs(graph: Path, batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Run a Q/DQ graph in float arithmetic."""
    model = load_clean(graph)
    Simulate()(model)
    with tempfile.TemporaryDirectory(dir=graph.parent) as scratch:
        save_model(model, Path(scratch) / graph.name)
        with open_reference(Path(scratch) / graph.name) as run:
            return run(batch)
