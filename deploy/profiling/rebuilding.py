"""Engines built again from a bundle's graph, and all builds timed beside each other."""

from __future__ import annotations

import tempfile
from pathlib import Path

from calib.collector import operand_shapes
from deploy.bundle import GOLDEN
from deploy.engine_graphs import engine_graph
from deploy.golden import read_golden
from deploy.profiling.contest import Arm, Effort, time_launches
from deploy.profiling.pool import Unit
from deploy.profiling.results import Rebuilds
from deploy.profiling.workers import WorkerProcess
from deploy.sessions import Configuration
from export.onnx_file import load_clean
from trueint8.artifacts import sha256_tree
from trueint8.progress import Progress


def rebuild(unit: Unit, count: int, effort: Effort, scratch: Path, progress: Progress) -> Rebuilds:
    """Build a unit's INT8 engine anew in fresh processes, and time all builds beside each other.

    Args:
        unit: Whose engine is built from the bundle's graph.
        count: Builds, 2 or more.
        effort: How much to time, 2 launches or more.
        scratch: A folder for the builds.
        progress: Where progress is shown.

    Raises:
        BuildError: If the engine refuses the graph now.
        RunError: If a build does not run.
    """
    bundle, engine = unit.bundle, unit.engine
    entry = bundle.manifest.engines[engine.name]
    batch = read_golden(bundle.path / GOLDEN).inputs
    half = engine.placement.rest == "fp16" and entry.rest == "fp16"
    known = operand_shapes(load_clean(bundle.calibrated_graph), batch)
    seconds, folders = [], []
    with tempfile.TemporaryDirectory(dir=scratch) as copy:
        source = Path(copy) / entry.graph  # what is written beside it must not be in the bundle
        source.symlink_to(bundle.quantized_graph(engine.name).resolve())
        with (
            engine_graph(engine, source, known, batch, half=half) as graph,
            progress.step(f"build {unit.title} again", total=count) as advance,
        ):
            for number in range(count):
                folders.append(scratch / f"{engine.name}-{number}")
                folders[-1].mkdir()
                label = f"build {number + 1} of {unit.title}"
                with WorkerProcess(label, effort.timeout_s) as worker:
                    answer = worker.ask(
                        "build",
                        engine=engine.name,
                        graph=str(graph),
                        folder=str(folders[-1]),
                        shapes=bundle.manifest.shapes,
                        options=entry.options,
                    )
                seconds.append(round(float(answer["build_s"]), 4))
                advance(1)
    configuration = Configuration("int8", entry.rest)
    arms = {
        number: Arm(f"{unit.title}, build {number + 1}", engine.name, folder, configuration,
                    unit.running)
        for number, folder in enumerate(folders)
    }  # fmt: skip
    title = f"time {count} builds of {unit.title}"
    times, _ = time_launches(arms, unit.data_file, effort, progress, title)
    return Rebuilds(
        build_s=seconds,
        distinct=len({sha256_tree(folder) for folder in folders}),
        launches_ns=[[[list(r) for r in rounds] for rounds in times[n]] for n in arms],
    )
