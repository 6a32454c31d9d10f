"""One configuration in its own process: a loop that answers requests on a pipe.

Requests and answers are JSON objects, one per line. The process is fresh, so
its peak memory is the configuration's own, and it stays loaded between rounds,
so that rounds of different configurations can alternate.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueint8.errors import RunError, TrueInt8Error

if TYPE_CHECKING:
    from deploy.sessions import Session

WARMUP_LONGEST_S = 10.0

CLOCKS = {"host": "", "device": "copied_ns", "kernels": "device_ns"}
"""What times a run: the host's clock around the call; CUDA events around copies and kernels, or
around the kernels alone."""

_IMPORTED_BEFORE = ("deploy.sessions", "deploy.profiling.evaluation", "deploy.profiling.warming")


def peak_memory_kib() -> int:
    """Return the largest resident set of this process since it was started.

    Not ``ru_maxrss``, which a child inherits from the process that started it.
    """
    return _kib("/proc/self/status", "VmHWM:")


def pss_kib() -> int:
    """Return the proportional set of this process: shared pages are split between sharers."""
    return _kib("/proc/self/smaps_rollup", "Pss:")


def _kib(file: str, key: str) -> int:
    for line in Path(file).read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    raise RunError(f"{file} does not say {key}", fix="mount /proc")


class Worker:
    """Holds one session and one batch."""

    def open(
        self, engine: str, path: str, configuration: dict[str, Any], running: dict[str, Any]
    ) -> dict[str, Any]:
        """Load the engine; return the seconds it took, and whether it replays CUDA graphs."""
        from deploy.engines import ENGINES
        from deploy.sessions import Configuration, Running, open_streams

        start = time.perf_counter()
        self._streams = open_streams(
            ENGINES.load(engine),
            Path(path),
            Configuration(**configuration),
            Running.from_plain(running),
        )
        self._session = self._streams[0]
        return {
            "load_s": time.perf_counter() - start,
            "captures": getattr(self._session, "captures", None),
        }

    def build(
        self,
        engine: str,
        graph: str,
        folder: str,
        shapes: dict[str, Any],
        options: dict[str, Any],
    ) -> dict[str, Any]:
        """Build an engine of a Q/DQ graph; return the seconds it took, without imports."""
        from deploy.engine_options import EngineOptions
        from deploy.engines import ENGINES
        from deploy.sessions import BuildRequest, shapes_from_plain
        from trueint8.progress import Silence

        chosen = ENGINES.load(engine)
        chosen.version()  # imports its library
        told = EngineOptions.from_plain(options)
        request = BuildRequest(
            Path(graph), Path(folder), shapes_from_plain(shapes), Silence(), told
        )
        start = time.perf_counter()
        chosen.build(request)
        return {"build_s": time.perf_counter() - start}

    def warm_up(self, data: str) -> dict[str, Any]:
        """Run the first batch until runs stop getting faster; return all times."""
        from deploy.profiling.evaluation import load_evaluation
        from deploy.profiling.warming import settled

        self._data = load_evaluation(Path(data))
        self._batch = self._data.batches[0]
        start = time.perf_counter()
        times: list[int] = []
        while not (done := settled(times)) and time.perf_counter() - start < WARMUP_LONGEST_S:
            times += self._timed(1)
        return {"times_ns": times, "settled": done}

    def time(self, runs: int, clock: str) -> dict[str, Any]:
        """Run the batch ``runs`` times; return each time and the memory held so far.

        ``clock`` is one of :data:`CLOCKS`: a session that has no CUDA events has the host's alone.
        """
        if not hasattr(self._session, CLOCKS[clock] or "run"):
            raise RunError(
                f"this engine takes no time by CUDA events, which --clock {clock} asks for",
                fix="pass --clock host, or --engine with engines of NVIDIA GPUs",
            )
        times = self._timed(runs, CLOCKS[clock])
        told = getattr(self._session, "device_memory", None)
        return {
            "times_ns": times,
            "peak_memory_kib": peak_memory_kib(),
            "pss_kib": pss_kib(),
            "device_memory": None if told is None else asdict(told()),
        }

    def load(self, round_ms: float) -> dict[str, Any]:
        """Run the batch in every stream until a round is over; return each one's runs and time."""
        from concurrent.futures import ThreadPoolExecutor

        ready = threading.Barrier(len(self._streams))

        def stream(session: Session) -> tuple[int, int]:
            ready.wait()
            start = now = time.perf_counter_ns()
            runs = 0
            while now < start + round_ms * 1e6 or not runs:
                session.run(self._batch)
                runs, now = runs + 1, time.perf_counter_ns()
            return runs, now - start

        with ThreadPoolExecutor(len(self._streams)) as threads:
            return {"streams": list(threads.map(stream, self._streams))}

    def golden_error(self, golden: str) -> dict[str, Any]:
        """Return the largest difference to golden outputs, relative to the largest of them."""
        from deploy.golden import golden_error

        return {"relative_error": golden_error(self._session.run, Path(golden))}

    def scores(self, reference: str, is_reference: bool) -> dict[str, Any]:
        """Return the metric and the scores per sequence.

        ``reference`` is an ``.npz`` of the float outputs; written by the FP32 session and read
        by the others, where outputs are compared by cosine.
        """
        import numpy as np

        from deploy.profiling.evaluation import output_vectors
        from deploy.profiling.scoring import score

        expected = None
        if self._data.target == "cosine":
            if is_reference:
                vectors = output_vectors(self._session.run, self._data)
                np.savez(reference, *vectors, allow_pickle=False)
            with np.load(reference) as archive:
                expected = [archive[name] for name in archive.files]
        return asdict(score(self._session.run, self._data, expected))

    def _timed(self, runs: int, attribute: str = "") -> list[int]:
        """Return times by the host's clock, or what the session says of each run."""
        times = []
        for _ in range(runs):
            start = time.perf_counter_ns()
            self._session.run(self._batch)
            took = time.perf_counter_ns() - start
            times.append(int(getattr(self._session, attribute)) if attribute else took)
        return times


def serve() -> None:
    """Answer requests until standard input closes."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to stderr, not into the answers
    worker = Worker()
    for module in _IMPORTED_BEFORE:  # while other workers start, not while they are timed
        importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except TrueInt8Error as err:
            kind = type(err).__name__
            answer = {"error": {"class": kind, "problem": err.problem, "fix": err.fix}}
        answers.write(json.dumps(answer) + "\n")
