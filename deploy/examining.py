"""One engine's word on one graph, asked in a process of its own: its compiler may crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.audit import Profile, profile_kernels
from deploy.engines import ENGINES
from deploy.hardware import default_threads
from deploy.kernels import Kernel
from deploy.sessions import (
    BuildRequest,
    Configuration,
    Engine,
    Running,
    Shapes,
    int8_configuration,
)
from trueint8.errors import BuildError, RunError
from trueint8.progress import Silence

_HOME = Path(__file__).resolve().parents[1]
_SERVE = "from deploy.examining import serve; serve()"
_REQUEST, _BATCH, _ANSWER = "request.json", "batch.npz", "answer.json"


@dataclass(frozen=True, slots=True)
class Question:
    """What an engine is asked about.

    Attributes:
        graph: The file.
        matmuls: Names of its products.
        shapes: What it must accept.
        batch: Inputs of the usual shapes.
        profiled: Whether its kernels are timed on them.
    """

    graph: Path
    matmuls: Sequence[str]
    shapes: Shapes
    batch: Mapping[str, np.ndarray]
    profiled: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine says of a graph.

    Attributes:
        kernels: Of what it built.
        profile: Of these, where it was asked for and runs here.
        plain: What its library executes of the file as it stands, where it can run here.
        refused: Why it does not take the graph, else "".
        plain_refused: The same of the file as it stands.
    """

    kernels: list[Kernel]
    profile: Profile | None = None
    plain: list[Kernel] | None = None
    refused: str = ""
    plain_refused: str = ""


def examine(name: str, question: Question) -> Answer:
    """Build a graph with an engine in a scratch folder and ask what it executes."""
    engine: Engine = ENGINES.load(name)
    configuration = int8_configuration(engine)
    assert configuration is not None
    running = Running(default_threads(), shapes=question.shapes)
    matmuls = dict.fromkeys(question.matmuls, "")
    with tempfile.TemporaryDirectory(prefix="trueint8-") as scratch:
        folder = Path(scratch)
        try:
            engine.build(BuildRequest(question.graph, folder, question.shapes, Silence()))
            kernels = engine.audit(folder, configuration, running, matmuls)
            profile = None
            if engine.runs_here and question.profiled:
                profile = profile_kernels(engine, folder, configuration, running, question.batch)
        except (BuildError, RunError) as err:
            return Answer([], refused=err.problem)
    if not engine.runs_here:
        return Answer(kernels, profile)
    try:
        as_is = Configuration("simulated", "fp32")
        return Answer(kernels, profile, engine.audit(question.graph, as_is, running, matmuls))
    except (BuildError, RunError) as err:
        return Answer(kernels, profile, plain_refused=err.problem)


def examine_apart(name: str, question: Question) -> Answer:
    """Do the same in a process of its own; a crash of the engine is a refusal."""
    with tempfile.TemporaryDirectory(prefix="trueint8-") as scratch:
        folder = Path(scratch)
        np.savez(folder / _BATCH, allow_pickle=False, **question.batch)
        request = {
            "engine": name,
            "graph": str(question.graph.resolve()),
            "matmuls": list(question.matmuls),
            "shapes": question.shapes,
            "profiled": question.profiled,
        }
        (folder / _REQUEST).write_text(json.dumps(request), "utf-8")
        done = subprocess.run(
            [sys.executable, "-P", "-c", _SERVE, scratch],
            env={**os.environ, "PYTHONPATH": str(_HOME)},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        answer = folder / _ANSWER
        if answer.is_file():
            return _answer(json.loads(answer.read_text("utf-8")))
        return Answer([], refused=_end(name, done))


def serve() -> None:
    """Answer the question in the folder that the command line names."""
    from deploy.sessions import shapes_from_plain

    folder = Path(sys.argv[1])
    request = json.loads((folder / _REQUEST).read_text("utf-8"))
    with np.load(folder / _BATCH) as batch:
        question = Question(
            graph=Path(request["graph"]),
            matmuls=request["matmuls"],
            shapes=shapes_from_plain(request["shapes"]),
            batch=dict(batch),
            profiled=request["profiled"],
        )
    answer = asdict(examine(request["engine"], question))
    whole = folder / f"{_ANSWER}.part"
    whole.write_text(json.dumps(answer), "utf-8")
    whole.rename(folder / _ANSWER)


def _end(name: str, done: subprocess.CompletedProcess[str]) -> str:
    """Return how a process ended that gave no answer."""
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "")
    how = f"exit code {done.returncode}"
    if done.returncode < 0:
        how = signal.Signals(-done.returncode).name
    return f"{name} crashed on this graph ({how})" + (f":\n{last}" if last else "")


def _answer(plain: Mapping[str, Any]) -> Answer:
    profile = plain["profile"]
    return Answer(
        kernels=_kernels(plain["kernels"]),
        profile=profile and Profile(**profile),
        plain=_kernels(plain["plain"]) if plain["plain"] is not None else None,
        refused=plain["refused"],
        plain_refused=plain["plain_refused"],
    )


def _kernels(plain: Sequence[Mapping[str, Any]]) -> list[Kernel]:
    return [Kernel(**{**kernel, "matmuls": tuple(kernel["matmuls"])}) for kernel in plain]
