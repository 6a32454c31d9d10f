"""The parent's side of a worker: start, ask, and stop."""

from __future__ import annotations

import json
import math
import os
import random
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from deploy.energy import EnergyMeter
from deploy.nvidia.telemetry import GpuState, GpuWatch
from deploy.profiling.conditions import (
    Snapshot,
    Watch,
    frequency_mhz,
    governor,
    load_between,
    temperature_c,
    throttle_events,
)
from deploy.profiling.results import Block, Gpu
from deploy.sessions import Configuration, Running
from trueint8 import errors
from trueint8.errors import RunError, TrueInt8Error
from trueint8.progress import Advance

_HOME = Path(__file__).resolve().parents[2]
_SERVE = (  # this installation before whatever else the parent may have found engines in
    f"import sys; sys.path.insert(0, {str(_HOME)!r}); "
    "from deploy.profiling.worker import serve; serve()"
)
_RUNS_PER_ROUND = (3, 200)

K = TypeVar("K")


@dataclass(slots=True)
class Aside:
    """What was learnt of one worker beside its times."""

    blocks: list[Block] = field(default_factory=list)
    peak_kib: list[int] = field(default_factory=list)
    pss_kib: list[int] = field(default_factory=list)
    device_memory: dict[str, Any] | None = None
    """Bytes, as of :class:`deploy.nvidia.session.DeviceMemory`; the last told."""


class WorkerProcess:
    """A fresh process that holds one configuration.

    Args:
        label: What it holds, for messages.
        timeout_s: Longest wait for one answer.

    Attributes:
        captures: Whether what was opened replays CUDA graphs; None where there are none.
    """

    def __init__(self, label: str, timeout_s: float) -> None:
        self.label = label
        self.captures: bool | None = None
        self._timeout_s = timeout_s
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            RunError: If the worker dies or does not answer in time.
            TrueInt8Error: Of the class that the worker raised, if it fails.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            stdin.flush()
        except BrokenPipeError as err:
            raise self._died() from err
        ready, _, _ = select.select([stdout], [], [], self._timeout_s)
        if not ready:
            raise RunError(
                f"{self.label} gave no answer to {do!r} within {self._timeout_s:.0f} s",
                fix="the engine hangs or the model is too large for this machine; "
                "raise --timeout or profile fewer engines with --engine",
            )
        line = stdout.readline()
        if not line:
            raise self._died()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _rebuilt(self.label, answer["error"])
        return answer

    def open(
        self, engine: str, path: Path, configuration: Configuration, running: Running
    ) -> float:
        """Load an engine, as :meth:`deploy.sessions.Engine.open`; return the seconds it took."""
        answer = self.ask(
            "open",
            engine=engine,
            path=str(path),
            configuration=asdict(configuration),
            running=running.to_plain(),
        )
        self.captures = answer["captures"]
        return float(answer["load_s"])

    def _died(self) -> RunError:
        code = self._process.wait()
        self._log.seek(0)
        last = "\n    ".join(self._log.read().strip().splitlines()[-6:])
        reason = "out of memory, or killed" if code == -9 else f"exit code {code}"
        return RunError(
            f"{self.label}: its process died ({reason})\n    {last}",
            fix="free memory, or profile one bundle or engine at a time",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._log.close()


def _rebuilt(label: str, error: dict[str, str]) -> TrueInt8Error:
    """Return a worker's error as the class of :mod:`trueint8.errors` that it was, or a RunError."""
    kind = getattr(errors, error["class"], None)
    if not (isinstance(kind, type) and issubclass(kind, TrueInt8Error)):
        kind = RunError
    return kind(f"{label}: {error['problem']}", fix=error["fix"])


def time_interleaved(
    workers: Mapping[K, WorkerProcess],
    warmups: Mapping[K, Sequence[int]],
    *,
    rounds: int,
    round_ms: float,
    seed: int,
    advance: Advance,
    clock: str = "host",
) -> tuple[dict[K, list[list[int]]], dict[K, Aside]]:
    """Time several workers in rounds, in an order drawn anew each round.

    Args:
        workers: Warmed up.
        warmups: Times of each, in ns; the least decides how many runs make a round.
        rounds: How many.
        round_ms: Aim for one worker's round; it has at least 3 runs.
        seed: Of the order.
        advance: Called after each round.
        clock: One of :data:`deploy.profiling.worker.CLOCKS`.

    Returns:
        Times in ns, a list per round; and what else was learnt in each round.
    """
    least, most = _RUNS_PER_ROUND
    runs = {
        k: min(most, max(least, math.ceil(round_ms * 1e6 / min(w)))) for k, w in warmups.items()
    }
    order = random.Random(seed)
    times: dict[K, list[list[int]]] = {k: [] for k in workers}
    asides: dict[K, Aside] = {k: Aside() for k in workers}
    watch = Watch(worker.pid for worker in workers.values())
    gpu, energy = GpuWatch(), EnergyMeter()
    for _ in range(rounds):
        for key in order.sample(list(workers), len(workers)):
            before, start, throttled = energy.read(), watch.snapshot(), throttle_events()
            answer = workers[key].ask("time", runs=runs[key], clock=clock)
            block = _block(start, watch.snapshot(), throttled, gpu.state(), answer["pss_kib"])
            used = {"energy_j": energy.joules_since(before)}
            asides[key].blocks.append(block.model_copy(update=used))
            times[key].append(answer["times_ns"])
            asides[key].peak_kib.append(answer["peak_memory_kib"])
            asides[key].pss_kib.append(answer["pss_kib"])
            asides[key].device_memory = answer["device_memory"]
        advance(1)
    return times, asides


def _block(
    start: Snapshot, end: Snapshot, throttled: int | None, gpu: GpuState | None, pss_kib: int
) -> Block:
    """Return what was learnt of one round; ``throttled`` counts until its start."""
    load, now = load_between(start, end, os.cpu_count() or 1), throttle_events()
    return Block(
        others=round(load.others, 4),
        stolen=round(load.stolen, 4),
        load_average_1m=round(os.getloadavg()[0], 2),
        frequency_mhz=frequency_mhz(),
        governor=governor(),
        temperature_c=temperature_c(),
        throttle_events=None if now is None or throttled is None else now - throttled,
        pss_mib=round(pss_kib / 1024, 2),
        gpu=None if gpu is None else Gpu.model_validate(asdict(gpu)),
    )
