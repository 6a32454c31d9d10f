"""Candidates on a real engine: built, evaluated, and timed beside the float graph."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from calib.inputs import GraphInput
from deploy.hardware import default_threads
from deploy.profiling.evaluation import EvaluationSet
from deploy.profiling.scoring import Scores, drop, scores_from
from deploy.profiling.statistics import median_ms, speed_up
from deploy.profiling.workers import WorkerProcess, time_interleaved
from deploy.search.candidates import Quantized, build_engine
from deploy.search.strategy import Candidate, Kept
from deploy.sessions import Engine, Precision

ROUNDS = 7
ROUND_MS = 100.0
_ANSWER_S = 600.0


class Bench:
    """The float graph in a process of its own, and one candidate after the other beside it.

    Accuracy is compared with FP32, latency with the fastest float precision of the engine.

    Args:
        engine: That runs here.
        graphs: What is chosen from.
        inputs: Of the graph.
        data: Evaluation data.
        scratch: A folder for graphs, engines and data.
        seed: Of the order in rounds.
    """

    def __init__(
        self,
        engine: Engine,
        graphs: Quantized,
        inputs: Sequence[GraphInput],
        data: EvaluationSet,
        scratch: Path,
        seed: int,
    ) -> None:
        self._engine, self._graphs, self._inputs = engine, graphs, inputs
        self._data, self._scratch, self._seed = data, scratch, seed
        self._file, self._reference = scratch / "evaluation.npz", scratch / "reference.npz"
        self._stack = ExitStack()
        self.fastest: Precision = "fp32"

    def __enter__(self) -> Self:
        self._data.save(self._file)
        with ExitStack() as opened:
            workers: dict[Precision, WorkerProcess] = {}
            warmups: dict[Precision, list[int]] = {}
            for precision in self._engine.float_precisions():
                workers[precision] = opened.enter_context(
                    self._worker(f"float {precision}", self._graphs.float_graph, "float", precision)
                )
                warmups[precision] = self._warm_up(workers[precision])
            self.float_scores = self._scores(workers["fp32"], is_reference=True)
            self.fastest = min(warmups, key=lambda p: min(warmups[p]))
            self._float, self._float_warmup = workers[self.fastest], warmups[self.fastest]
            self._stack = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def measure(self, kept: Kept) -> Candidate:
        """Build and run the graph with the matmuls ``kept`` in float.

        Raises:
            BuildError: If the engine refuses it.
            RunError: If it fails, or its outputs overflow.
        """
        graph, folder = self._scratch / "candidate.onnx", self._scratch / "candidate"
        self._graphs.write(kept, graph)
        build_engine(self._engine, graph, folder, self._inputs, self._data.batches[0])
        label = f"candidate with {len(kept)} in float"
        try:
            with self._worker(label, folder, "int8", self._engine.int8_rest()) as worker:
                warmup = self._warm_up(worker)
                scores = self._scores(worker, is_reference=False)
                times, _ = time_interleaved(
                    {"float": self._float, "candidate": worker},
                    {"float": self._float_warmup, "candidate": warmup},
                    rounds=ROUNDS,
                    round_ms=ROUND_MS,
                    seed=self._seed,
                    advance=lambda units: None,
                )
        finally:
            shutil.rmtree(folder)
        return Candidate(
            kept=kept,
            value=scores.value,
            drop=drop(self.float_scores, scores),
            latency_ms=median_ms(times["candidate"]),
            float_ratio=speed_up(times["float"], times["candidate"]),
        )

    def _worker(self, label: str, path: Path, graph: str, rest: Precision) -> WorkerProcess:
        worker = WorkerProcess(f"{self._engine.name}, {label}", _ANSWER_S)
        try:
            worker.ask(
                "open",
                engine=self._engine.name,
                path=str(path),
                graph=graph,
                rest=rest,
                threads=default_threads(),
            )
        except BaseException:
            worker.__exit__(None, None, None)
            raise
        return worker

    def _warm_up(self, worker: WorkerProcess) -> list[int]:
        times: list[int] = worker.ask("warm_up", data=str(self._file))["times_ns"]
        return times

    def _scores(self, worker: WorkerProcess, *, is_reference: bool) -> Scores:
        answer: Mapping[str, Any] = worker.ask(
            "scores", reference=str(self._reference), is_reference=is_reference
        )
        return scores_from(answer)
