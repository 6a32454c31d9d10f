"""Engines built again from a bundle's graph: does one build differ from the next?

Builders that time kernels to choose among them (TensorRT) may choose otherwise each time. k builds
in L launches, all timed beside each other, with xᵢⱼ = log of build i's median time in launch j:

    xᵢⱼ = m + bᵢ + lⱼ + eᵢⱼ;   s²(between) = max(0, MS(b) − MS(e)) / L;   s²(within) = MS(e)

References:
    Searle, Casella and McCulloch 1992, "Variance Components", chapter 4 (two-way, no interaction).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import f as fisher

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
from trueint8.kinds import Kind
from trueint8.progress import Progress

_SURE = 0.01
"""Chance below which builds are said to differ."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How much builds differ, as shares of the time.

    Attributes:
        extremes: Slowest build ÷ fastest.
        between: Deviation of builds from each other, that of launches taken off.
        within: Deviation of launches of one build.
        chance: Probability of such builds if all were alike.
    """

    extremes: float
    between: float
    within: float
    chance: float


def spread_of(rebuilds: Rebuilds) -> Spread:
    """Return how much builds differ; see the module's docstring."""
    logs = np.array(
        [
            [np.log(np.median([np.median(times) for times in rounds])) for rounds in launches]
            for launches in rebuilds.launches_ns
        ]
    )
    builds, launches = logs.shape
    means = logs.mean(axis=1)
    rest = logs - means[:, None] - logs.mean(axis=0) + logs.mean()
    freedom = (builds - 1) * (launches - 1)
    error = float((rest**2).sum()) / freedom
    of_builds = launches * float(np.var(means, ddof=1))
    chance = float(fisher.sf(of_builds / error, builds - 1, freedom)) if error else 1.0
    return Spread(
        extremes=float(np.exp(means.max() - means.min())),
        between=float(np.sqrt(max(0.0, of_builds - error) / launches)),
        within=float(np.sqrt(error)),
        chance=chance,
    )


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


def spread_line(title: str, rebuilds: Rebuilds) -> str:
    """Return what became of the builds, in a sentence."""
    found = spread_of(rebuilds)
    alike = found.chance > _SURE
    return (
        f"{title}: {len(rebuilds.build_s)} builds, {rebuilds.distinct} distinct by content, "
        f"slowest ÷ fastest {found.extremes:.3f}; deviation between builds {found.between:.1%}, "
        f"between launches of one {found.within:.1%}; "
        + ("no evidence that builds differ" if alike else "builds differ")
        + f"  [{Kind.MEASURED}]"
    )
