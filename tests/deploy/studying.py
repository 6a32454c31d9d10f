"""Small real studies, and what their folders tell about how they ran."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import yaml

LONGEST_S = 120.0
PROFILE = {"rounds": 3, "round-ms": 1, "samples": 4}


def write_study(home: Path, graph: Path, arrays: Path, held_out: Path, **keys: Any) -> Path:
    """Write a study of a small ready graph, with its files beside it."""
    for source, name in ((graph, "m.onnx"), (arrays, "train.npz"), (held_out, "eval.npz")):
        if not (home / name).exists():
            shutil.copy(source, home / name)
    content = {
        "models": [{"name": "bert", "path": "m.onnx"}],
        "calib-data": "train.npz",
        "eval-data": "eval.npz",
        "build": {"smooth": "none", "rounding": "nearest", "engine": "onnxruntime"},
        "profile": PROFILE,
        **keys,
    }
    path = home / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    return path


@dataclass(frozen=True)
class Span:
    """When a job had the machine."""

    name: str
    timed: bool
    began: datetime
    ended: datetime


def spans(*studies: Path) -> list[Span]:
    """Return every job that ran, as the folders tell; not cells that failed for want of a build."""
    found = []
    for study in studies:
        for file in sorted(study.glob("*/*/status.json")):
            status = json.loads(file.read_text("utf-8"))
            timed = file.parent.parent.name == "cells"
            if not timed or (file.parent / "log.txt").exists():
                times = (datetime.fromisoformat(status[key]) for key in ("began", "ended"))
                found.append(Span(file.parent.name, timed, *times))
    return found


def overlaps(found: list[Span]) -> list[tuple[str, str]]:
    """Return the pairs that ran at the same time, of which one at least was timed."""
    return [
        (a.name, b.name)
        for a, b in itertools.combinations(found, 2)
        if (a.timed or b.timed) and a.began < b.ended and b.began < a.ended
    ]


def statuses(study: Path) -> dict[str, bytes]:
    """Return the status files as they are, by folder."""
    return {
        file.parent.relative_to(study).as_posix(): file.read_bytes()
        for file in study.glob("*/*/status.json")
    }


def until(happened: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Wait for something, while a process goes on."""
    end = time.monotonic() + LONGEST_S
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        assert process is None or process.poll() is None, "the study ended before"
        time.sleep(0.02)


def jobs_of(out: Path) -> list[psutil.Process]:
    """Return the processes that work for a study."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if any(part.startswith(f"{out}/") for part in line):
            found.append(process)
    return found
