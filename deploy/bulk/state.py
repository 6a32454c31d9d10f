"""How far a job is: a part file, and beside it what says how much of it counts.

A window of answers is appended to the part, then the state is replaced. Whatever a kill leaves
behind the state's size is cut off, so no answer is lost and none is written twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import ValidationError

from deploy.bulk.lines import Prefix
from deploy.record import Record
from trueint8.artifacts import storage_errors, write_atomically
from trueint8.errors import ConfigError

_ANEW = "repeat the options and files it began with, or pass --force to begin anew"


class Asked(Record):
    """What decides the answers: a job goes on only with the same."""

    bundle_sha256: str
    engine: str
    configuration: str
    batch_rows: int
    truncate: bool
    plain: bool


class State(Record):
    """How far a job is.

    Attributes:
        schema_version: Of this file.
        asked: What decides the answers.
        line: The last line that is answered.
        offset: Bytes of the input up to its end.
        input_sha256: Of so many bytes of the input.
        size: Bytes of the part file that count.
        rows: Answers in them.
        bad: Those of them that say what is wrong with their line.
    """

    schema_version: Literal["trueint8/run/1"] = "trueint8/run/1"
    asked: Asked
    line: int = 0
    offset: int = 0
    input_sha256: str
    size: int = 0
    rows: int = 0
    bad: int = 0


def part_of(out: Path) -> Path:
    """Return where answers are until all are there."""
    return out.with_name(f"{out.name}.part")


def state_of(out: Path) -> Path:
    """Return where it is kept how far the job is."""
    return out.with_name(f"{out.name}.state")


@contextlib.contextmanager
def part_file(out: Path) -> Iterator[BinaryIO]:
    """Open the part file for one job alone.

    Raises:
        ConfigError: If another job is writing it.
        StorageError: If it cannot be written.
    """
    part = part_of(out)
    with storage_errors(part):
        out.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as err:
                raise ConfigError(
                    f"another job is writing {part}", fix="wait for it, or pass another -o"
                ) from err
            yield stream


def read_state(out: Path, asked: Asked, source: Path, prefix: Prefix, *, anew: bool) -> State:
    """Return how far a job is that asks the same of the same input; the start if there is none.

    Args:
        out: The job's answers.
        asked: What decides them.
        source: Its input; what comes after the last line that is answered may have changed.
        prefix: Of the input.
        anew: Whether it starts in any case.

    Raises:
        ConfigError: If what is there is of another job.
    """
    path, part = state_of(out), part_of(out)
    start = State(asked=asked, input_sha256=prefix.sha256(0))
    if anew or not path.is_file():
        return start
    try:
        found = State.model_validate_json(path.read_bytes())
    except ValidationError as err:
        raise ConfigError(f"{path} is no state of this version", fix=_ANEW) from err
    if found.asked != asked:
        raise ConfigError(f"{path} is of a job with other options or another bundle", fix=_ANEW)
    whole = source.stat().st_size >= found.offset
    if not whole or prefix.sha256(found.offset) != found.input_sha256:
        raise ConfigError(f"{path}: {source} was changed before line {found.line}", fix=_ANEW)
    if part.stat().st_size < found.size:
        raise ConfigError(f"{part} is shorter than {path} says", fix=_ANEW)
    return found


def commit(out: Path, stream: BinaryIO, answers: bytes, state: State) -> None:
    """Append a window of answers, and then say that they count."""
    with storage_errors(part_of(out)):
        stream.write(answers)
        stream.flush()
        os.fsync(stream.fileno())
        write_atomically(state_of(out), state.model_dump_json() + "\n")


def finish(out: Path) -> None:
    """Give the part file its name; what said how far it was goes."""
    with storage_errors(out):
        os.replace(part_of(out), out)
        state_of(out).unlink(missing_ok=True)
