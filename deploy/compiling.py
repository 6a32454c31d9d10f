"""Q/DQ graph to engines, each audited and run before it is sealed into a bundle."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from calib.collector import unpadded
from calib.data import Samples
from calib.quantization import Prepared
from deploy import bundle as layout
from deploy.engine_graphs import decisions, engine_graph, simulated_outputs
from deploy.engines import ENGINES
from deploy.hardware import default_threads
from deploy.kernels import executed_precisions
from deploy.manifest import EngineEntry
from deploy.planning import BuildPlan
from deploy.sessions import (
    BuildRequest,
    Configuration,
    Engine,
    Precision,
    Running,
    Shapes,
    int8_configuration,
)
from deploy.shapes import fitting
from deploy.unsupported import explained
from export.reference import open_reference
from trueint8.artifacts import no_space
from trueint8.errors import BuildError, CalibrationError, RunError
from trueint8.progress import Progress


@dataclass(slots=True)
class Steps:
    """Seconds each step took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Take the time of a block."""
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)


def build_engines(
    folder: Path,
    plan: BuildPlan,
    shapes: Shapes,
    prepared: Prepared,
    samples: Samples,
    steps: Steps,
    progress: Progress,
) -> dict[str, EngineEntry]:
    """Build, audit and run every engine of the plan inside an unfinished bundle.

    Args:
        folder: The unfinished bundle, which holds all graphs.
        plan: Names the engines.
        shapes: Of each input, that every engine must accept.
        prepared: The decisions the graphs were made with.
        samples: Calibration batches; the first is run.
        steps: Gets the seconds of each engine.
        progress: Where progress is shown.

    Returns:
        Manifest entries by engine name.

    Raises:
        BuildError: If an engine refuses the graph.
        CalibrationError: If an INT8 engine gives NaN or infinite values.
        StorageError: If the disk is full.
    """
    names = {s.matmul.name: s.matmul.returns for s in prepared.placement.sites}
    common = {s.matmul.name: s.reason for s in prepared.placement.sites}
    batch = fitting(samples.batches[0], shapes)
    with open_reference(folder / layout.FLOAT_GRAPH) as run:
        expected = run(batch)
    needed = (folder / layout.INT8_GRAPH).stat().st_size
    entries = {}
    for name in plan.engines:
        engine: Engine = ENGINES.load(name)
        target = folder / layout.ENGINE / name
        target.mkdir(parents=True)
        graph, reasons = decisions(engine, plan.engines, prepared, folder / layout.INT8_GRAPH)
        half = engine.placement.rest == "fp16" and not plan.fp32_rest
        options = plan.options_of(engine)
        running = Running(default_threads(), options, shapes)
        int8 = int8_configuration(engine)
        configuration = int8 or engine.floats()[0]
        if engine.placement.rest and not half:
            configuration = replace(configuration, rest="fp32")
        with (
            steps.timed(f"build {name}"),
            _full_disk_told(target, needed),
            engine_graph(engine, graph, prepared.shapes, batch, half=half) as typed,
        ):
            request = BuildRequest(typed, target, shapes, progress, options, plan.source)
            try:
                engine.build(request)
            except BuildError as err:
                raise explained(err, name, typed) from err
        title = f"check {name}"
        with steps.timed(title), progress.step(title), _full_disk_told(target, needed):
            floats = {n for n, reason in {**common, **(reasons or {})}.items() if reason}
            kernels = engine.audit(target, configuration, running, names) if int8 else []
            audit = executed_precisions(kernels, names, floats)
            if engine.runs_here:
                outputs = _run(engine, target, configuration, running, batch)
            else:
                outputs = simulated_outputs(graph, batch)
            cosine = _cosine(outputs, expected, batch.get("attention_mask"))
        entries[name] = EngineEntry(
            version=engine.version(),
            runs_here=engine.runs_here,
            rest=configuration.rest,
            options=options.without_paths().to_plain(),
            graph=graph.name,
            reasons=reasons,
            int8=int8 is not None,
            int8_matmuls=sum(p == "int8" for p in audit.values()),
            cosine=cosine if engine.runs_here else None,
            simulated_cosine=None if engine.runs_here else cosine,
        )
    return entries


def golden_graphs(plan: BuildPlan, prepared: Prepared, folder: Path) -> dict[Path, list[Precision]]:
    """Return the Q/DQ graphs of a build, and the precisions engines may run their rest in.

    BF16 is among them also where this machine's processor prefers FP32: another may not.
    """
    common = folder / layout.INT8_GRAPH
    found: dict[Path, list[Precision]] = {common: ["fp32", "bf16"]}
    for name in plan.engines:
        engine: Engine = ENGINES.load(name)
        graph, _ = decisions(engine, plan.engines, prepared, common)
        half: Precision = "fp16" if engine.placement.rest and not plan.fp32_rest else "fp32"
        rests = found.setdefault(graph, [])
        if half not in rests:
            rests.append(half)
    return found


@contextmanager
def _full_disk_told(folder: Path, needed: int) -> Iterator[None]:
    """Say that the disk is full where an engine's own message hides it.

    Args:
        folder: Where the engine writes.
        needed: Bytes it can be expected to write.
    """
    try:
        yield
    except (BuildError, RunError) as err:
        if shutil.disk_usage(folder).free < needed or "iostream error" in err.problem:
            raise no_space(folder) from err
        raise


def _run(
    engine: Engine,
    folder: Path,
    configuration: Configuration,
    running: Running,
    batch: Mapping[str, np.ndarray],
) -> Mapping[str, np.ndarray]:
    """Run the engine from the files just written, so that none is sealed broken."""
    with engine.open(folder, configuration, running) as session:
        outputs = session.run(batch)
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise CalibrationError(
                f"the engine {engine.name} gives NaN or infinite values in {name!r}",
                fix="try another --calib or a higher --percentile",
            )
    return outputs


def _cosine(
    outputs: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    mask: np.ndarray | None,
) -> float:
    """Return the cosine of all outputs, taken as one vector, to the float graph's.

    Padded positions (``mask`` 0) do not count.
    """
    pairs = [
        (unpadded(outputs[n].astype(np.float64), mask), unpadded(e.astype(np.float64), mask))
        for n, e in expected.items()
    ]
    dot = sum(float((a * b).sum()) for a, b in pairs)
    squares = [sum(float((p[i] ** 2).sum()) for p in pairs) for i in (0, 1)]
    norm = float(np.sqrt(squares[0] * squares[1]))
    return dot / norm if norm else float(squares[0] == squares[1])
