"""A study's folder: one folder per build and per cell, whose status is the last thing written."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from deploy.bundle import MANIFEST
from deploy.record import Record
from deploy.study.cells import Build, Cell
from trueint8.artifacts import storage_errors, write_atomically
from trueint8.errors import ConfigError, StorageError, TrueInt8Error

Step = Literal["build", "profile"]
SCHEMA: Literal["trueint8/study/1"] = "trueint8/study/1"
MARKER = "study.json"
RESULTS = "results.jsonl"
LOG = "log.txt"
BUILD = "build.json"
CELL = "cell.json"
_STATUS = "status.json"


class Failure(Record):
    """Why a build or a cell failed."""

    step: Step
    error: str = Field(description="Name of the error's class.")
    problem: str
    fix: str


class Status(Record):
    """How a build or a cell ended."""

    schema_: Literal["trueint8/study/1"] = Field(default=SCHEMA, alias="schema")
    began: str = Field(description="UTC, ISO 8601: when the machine was free for it.")
    ended: str
    host: str
    cores: list[int] = Field(description="Processors it might use.")
    failure: Failure | None = None
    note: str = ""


def now() -> str:
    """Return the time in UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def status_from(began: str, failure: Failure | None = None, note: str = "") -> Status:
    """Return how something ended that ran on this machine and ends now."""
    return Status(
        schema=SCHEMA,
        began=began,
        ended=now(),
        host=socket.gethostname(),
        cores=sorted(os.sched_getaffinity(0)),
        failure=failure,
        note=note,
    )


def failure_from(step: Step, error: Exception) -> Failure:
    """Return an exception as it is stored."""
    name = type(error).__name__
    if isinstance(error, TrueInt8Error):
        return Failure(step=step, error=name, problem=error.problem, fix=error.fix)
    problem = str(error).strip().splitlines()[-1:] or ["no message"]
    return Failure(
        step=step,
        error=name,
        problem=f"{name}: {problem[0]}",
        fix=f"{LOG} in its folder holds the traceback",
    )


def write_status(folder: Path, status: Status) -> None:
    """Write how the build or cell of a folder ended."""
    write_atomically(folder / _STATUS, status.model_dump_json(by_alias=True, indent=1) + "\n")


def read_status(folder: Path) -> Status | None:
    """Return how it ended; None if it did not, or by another version of this schema."""
    try:
        return Status.model_validate_json((folder / _STATUS).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def bundle_path(build: Path) -> Path:
    """Return the bundle in a build's folder, which is named as when it was built."""
    return next(build.glob(f"*/{MANIFEST}")).parent


class StudyFolder:
    """Where a study keeps what it finished.

    Args:
        path: The folder; made when something is first written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep other studies out of it.

        Raises:
            ConfigError: If the folder holds something else, or another study runs in it.
            StorageError: If it cannot be made.
        """
        self.check()
        with storage_errors(self.path):
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as err:
                raise StorageError(
                    f"{err.filename} is no folder", fix="write elsewhere with -o"
                ) from err
            handle = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as err:
                raise ConfigError(
                    f"another study is running in {self.path}",
                    fix="wait for it, or write elsewhere with -o",
                ) from err
            yield
        finally:
            os.close(handle)

    def check(self) -> None:
        """Refuse a folder that holds anything but a study.

        Raises:
            ConfigError: Naming the folder.
        """
        there = self.path.is_dir() and any(self.path.iterdir())
        if there and not (self.path / MARKER).is_file():
            raise ConfigError(
                f"{self.path} holds something that is no study", fix="pass another -o"
            )

    def of(self, thing: Build | Cell) -> Path:
        """Return the folder of a build or a cell."""
        return self.path / ("builds" if isinstance(thing, Build) else "cells") / thing.id

    def status_of(self, thing: Build | Cell) -> Status | None:
        """Return how it ended; None if it did not, or if what it made is gone."""
        folder = self.of(thing)
        status = read_status(folder)
        made = f"*/{MANIFEST}" if isinstance(thing, Build) else RESULTS
        return None if is_done(status) and not any(folder.glob(made)) else status

    def describe(self, cells: Sequence[Cell]) -> None:
        """Write what the study consists of, over what a former one said."""
        listed = [{"id": cell.id, "cell": cell.label} for cell in cells]
        _write(self.path / MARKER, {"schema": SCHEMA, "cells": listed})

    def prepare_build(self, build: Build) -> Path:
        """Return a build's folder, with what is to be built and without a status."""
        plain = {"id": build.id, "name": build.name, "options": build.options}
        return self._prepared(self.of(build), BUILD, plain)

    def prepare_cell(self, cell: Cell) -> Path:
        """Return a cell's folder, with what is to be profiled and without a status."""
        plain = {
            "id": cell.id,
            "cell": cell.label,
            "model": cell.model,
            "values": cell.values,
            "build": cell.build.id,
            "profile": cell.profile,
        }
        return self._prepared(self.of(cell), CELL, plain)

    def collect(self, cells: Sequence[Cell]) -> None:
        """Write the rows of all finished cells into one results file."""
        finished = [self.of(cell) for cell in cells if is_done(self.status_of(cell))]
        rows = b"".join((folder / RESULTS).read_bytes() for folder in finished)
        write_atomically(self.path / RESULTS, rows)

    def _prepared(self, folder: Path, name: str, content: dict[str, Any]) -> Path:
        (folder / _STATUS).unlink(missing_ok=True)
        _write(folder / name, content)
        return folder


def is_done(status: Status | None) -> bool:
    """Tell whether something ended well."""
    return status is not None and status.failure is None


def _write(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=1) + "\n")
