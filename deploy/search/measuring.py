"""Candidates on a real engine: built, evaluated, and timed beside the float graph."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from calib.inputs import GraphInput
from deploy.hardware import default_threads
from deploy.profiling.evaluation import EvaluationSet
from deploy.profiling.scoring import Scores, drop, scores_from
from deploy.profiling.statistics import median_ms, speed_up
from deploy.profiling.workers import WorkerProcess, time_interleaved
from deploy.search.candidates import Quantized, build_engine
from deploy.search.strategy import Candidate, Kept
from deploy.sessions import Configuration, Engine, Precision, Running, int8_configuration
from deploy.shapes import engine_shapes

ROUNDS = 7
ROUND_MS = 100.0
_ANSWER_S = 600.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What candidates are measured on.

    Attributes:
        engine: That runs here.
        graphs: What is chosen from.
        inputs: Of the graph.
        data: Evaluation data.
        scratch: A folder for graphs, engines and data.
        seed: Of the order in rounds.
    """

    engine: Engine
    graphs: Quantized
    inputs: Sequence[GraphInput]
    data: EvaluationSet
    scratch: Path
    seed: int

    @property
    def running(self) -> Running:
        """How it runs: for shapes around those of the data."""
        shapes = engine_shapes(self.inputs, self.data.batches[0], None)
        return Running(default_threads(), shapes=shapes)

    @property
    def data_file(self) -> Path:
        """Where the worker processes find the data."""
        return self.scratch / "evaluation.npz"


@dataclass(frozen=True, slots=True)
class Bench:
    """The float graph in a process of its own, and one candidate after the other beside it.

    Accuracy is compared with FP32, latency with the fastest float precision of the engine.

    Attributes:
        setting: The engine, the graphs, and where files of the search go.
        float_scores: In FP32.
        fastest: The precision that ``float_worker`` runs in.
        float_worker: Warmed up.
        float_warmup: Its times, in ns.
    """

    setting: Setting
    float_scores: Scores
    fastest: Precision
    float_worker: WorkerProcess
    float_warmup: list[int]

    def measure(self, kept: Kept) -> Candidate:
        """Build and run the graph with the matmuls ``kept`` in float.

        Raises:
            BuildError: If the engine refuses it.
            RunError: If it fails, or its outputs overflow.
        """
        setting = self.setting
        graph, folder = setting.scratch / "candidate.onnx", setting.scratch / "candidate"
        setting.graphs.write(kept, graph)
        build_engine(setting.engine, graph, folder, setting.inputs, setting.data.batches[0])
        label = f"candidate with {len(kept)} in float, rest"
        configuration = int8_configuration(setting.engine)
        assert configuration is not None
        with _worker(setting, label, folder, configuration) as worker:
            warmup = _warm_up(setting, worker)
            scores = _scores(setting, worker, is_reference=False)
            times, _ = time_interleaved(
                {"float": self.float_worker, "candidate": worker},
                {"float": self.float_warmup, "candidate": warmup},
                rounds=ROUNDS,
                round_ms=ROUND_MS,
                seed=setting.seed,
                advance=lambda units: None,
            )
        shutil.rmtree(folder)
        return Candidate(
            kept=kept,
            value=scores.value,
            drop=drop(self.float_scores, scores),
            latency_ms=median_ms(times["candidate"]),
            float_ratio=speed_up(times["float"], times["candidate"]),
        )


@contextmanager
def open_bench(setting: Setting) -> Iterator[Bench]:
    """Load the float graph in every precision, evaluate FP32, and keep the fastest loaded.

    Raises:
        RunError: If the float graph fails to run.
    """
    setting.data.save(setting.data_file)
    with ExitStack() as stack:
        workers: dict[Precision, WorkerProcess] = {}
        warmups: dict[Precision, list[int]] = {}
        for configuration in setting.engine.floats():
            opened = _worker(setting, "float", setting.graphs.float_graph, configuration)
            precision = configuration.rest
            workers[precision] = stack.enter_context(opened)
            warmups[precision] = _warm_up(setting, workers[precision])
        scores = _scores(setting, workers["fp32"], is_reference=True)
        fastest = min(warmups, key=lambda p: min(warmups[p]))
        yield Bench(setting, scores, fastest, workers[fastest], warmups[fastest])


@contextmanager
def _worker(
    setting: Setting, label: str, path: Path, configuration: Configuration
) -> Iterator[WorkerProcess]:
    engine = setting.engine.name
    with WorkerProcess(f"{engine}, {label} {configuration.rest}", _ANSWER_S) as worker:
        worker.open(engine, path, configuration, setting.running)
        yield worker


def _warm_up(setting: Setting, worker: WorkerProcess) -> list[int]:
    times: list[int] = worker.ask("warm_up", data=str(setting.data_file))["times_ns"]
    return times


def _scores(setting: Setting, worker: WorkerProcess, *, is_reference: bool) -> Scores:
    reference = setting.scratch / "reference.npz"
    return scores_from(worker.ask("scores", reference=str(reference), is_reference=is_reference))
