"""A batch job: windows of lines, answered in batches of equal shapes, written in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.bulk.lines import Line, Prefix, count_lines, read_lines
from deploy.bulk.questions import Arrays, Interpreter, Question, error_line
from deploy.bulk.state import Asked, State, commit, finish, part_file, read_state
from deploy.serving.refusals import Refusal
from trueint8.errors import DataError, RunError
from trueint8.progress import Progress

WINDOW_LINES = 2048
WINDOW_TOKENS = 65_536
"""A window ends at either: it bounds memory, and the longer it is the fuller are the batches."""
TENSOR_TOKENS = 8_192
"""The same where outputs come whole, a vector per token."""

Run = Callable[[Arrays], dict[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Job:
    """What to answer, and where to.

    Attributes:
        source: A ``.txt`` or ``.jsonl`` file.
        out: The file of answers; it appears when all are there.
        asked: What decides the answers.
        skip_bad: Whether a bad line gets a line that says so, and the job goes on.
        anew: Whether what another job left is thrown away.
    """

    source: Path
    out: Path
    asked: Asked
    skip_bad: bool
    anew: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """How a job ended.

    Attributes:
        rows: Answers in the file.
        bad: Those that say what is wrong with their line.
        before: Rows that an earlier run of the job had written.
        seconds: Of this run.
    """

    rows: int
    bad: int
    before: int
    seconds: float


def run_job(job: Job, interpreter: Interpreter, run: Run, progress: Progress) -> Summary:
    """Answer every line that is not blank, in order, from where a killed run stopped.

    Raises:
        DataError: If a line is bad, naming it; everything before its window is kept.
        ConfigError: If what is there is of another job, or another process writes it.
        StorageError: If the disk is full or not writable.
    """
    began = time.monotonic()
    prefix = Prefix(job.source)
    with part_file(job.out) as stream:
        state = read_state(job.out, job.asked, job.source, prefix, anew=job.anew)
        stream.truncate(state.size)
        before = state.rows
        with progress.step(f"run {job.source.name}", count_lines(job.source)) as advance:
            advance(state.line)
            lines = read_lines(job.source, state.offset, state.line)
            for window in _windows(lines, job, interpreter):
                answers = _answers(window, job, interpreter, run)
                raw = "".join(f"{answer.text}\n" for answer in answers).encode()
                last, done = window[-1].line, state.line
                state = State(
                    asked=job.asked,
                    line=last.number,
                    offset=last.end,
                    input_sha256=prefix.sha256(last.end),
                    size=state.size + len(raw),
                    rows=state.rows + len(answers),
                    bad=state.bad + sum(answer.bad for answer in answers),
                )
                commit(job.out, stream, raw, state)
                advance(last.number - done)
        finish(job.out)
    return Summary(state.rows, state.bad, before, time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A line, and what it asks; None where it asks nothing, as ``problem`` says."""

    line: Line
    question: Question | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    bad: bool


def _windows(lines: Iterable[Line], job: Job, interpreter: Interpreter) -> Iterator[list[_Asked]]:
    """Cut lines into windows; where one ends follows from the lines since it began."""
    window: list[_Asked] = []
    used = 0.0
    for line in lines:
        asked = _read(line, job, interpreter)
        window.append(asked)
        if asked.question is not None:
            most = WINDOW_TOKENS if asked.question.text else TENSOR_TOKENS
            used += asked.question.tokens / most
        if len(window) == WINDOW_LINES or used >= 1:
            yield window
            window, used = [], 0.0
    if window:
        yield window


def _read(line: Line, job: Job, interpreter: Interpreter) -> _Asked:
    try:
        return _Asked(line, interpreter.question(line))
    except Refusal as err:
        return _Asked(line, None, _problem(line, err, job))


def _problem(line: Line, err: RunError, job: Job) -> str:
    """Return what is wrong with a line, if the job may go on without an answer to it.

    Raises:
        DataError: If it may not.
        RunError: Likewise, where the engine failed on it.
    """
    if job.skip_bad:
        return err.problem
    raise (DataError if isinstance(err, Refusal) else RunError)(
        f"{job.source} line {line.number}: {err.problem}",
        fix=f"{err.fix}; or pass --skip-bad, which says so in that line's place and goes on",
    ) from err


def _answers(
    window: Sequence[_Asked], job: Job, interpreter: Interpreter, run: Run
) -> list[_Answer]:
    """Answer a window, in its order."""
    found: dict[int, _Answer] = {}
    alike: dict[Any, list[_Asked]] = {}
    for asked in window:
        if asked.question is None:
            found[asked.line.number] = _refused(asked.line, asked.problem)
        else:
            alike.setdefault(asked.question.key, []).append(asked)
    for group in alike.values():
        for start in range(0, len(group), job.asked.batch_rows):
            batch = group[start : start + job.asked.batch_rows]
            found |= _answered(batch, job, interpreter, run)
    return [found[asked.line.number] for asked in window]


def _answered(
    batch: Sequence[_Asked], job: Job, interpreter: Interpreter, run: Run
) -> dict[int, _Answer]:
    """Run a batch, and each of its lines alone if it fails, to find the one that spoils it."""
    questions = [asked.question for asked in batch if asked.question is not None]
    names = questions[0].arrays
    try:
        outputs = run({n: np.concatenate([q.arrays[n] for q in questions]) for n in names})
    except RunError as err:
        if len(batch) == 1:
            line = batch[0].line
            return {line.number: _refused(line, _problem(line, err, job))}
        alone = [_answered([asked], job, interpreter, run) for asked in batch]
        return {number: answer for one in alone for number, answer in one.items()}
    found = {}
    for row, (asked, question) in enumerate(zip(batch, questions, strict=True)):
        own = {name: values[row : row + 1] for name, values in outputs.items()}
        try:
            answer = _Answer(interpreter.answer(question, own), bad=False)
        except Refusal as err:
            answer = _refused(asked.line, _problem(asked.line, err, job))
        found[asked.line.number] = answer
    return found


def _refused(line: Line, problem: str) -> _Answer:
    return _Answer(error_line(line, problem), bad=True)
