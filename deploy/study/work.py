"""One job of a study, in its own process: build a bundle, or profile one."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from deploy.study.state import (
    BUILD,
    CELL,
    RESULTS,
    Failure,
    bundle_path,
    failure_from,
    now,
    status_from,
    write_status,
)

_GRACE_S = 5.0
_TERMINATED = 143


def main() -> None:
    """Do the job, and write its status as the last act."""
    signal.signal(signal.SIGTERM, _terminate)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    step, folder = sys.argv[1], Path(sys.argv[2])
    began, note = now(), ""
    failure: Failure | None = None
    try:
        note = _STEPS[step](folder)
    except Exception as err:
        traceback.print_exc()
        failure = failure_from("build" if step == "build" else "profile", err)
    write_status(folder, status_from(began, failure, note))


def build(folder: Path) -> str:
    """Build the bundle that a build's folder describes; return what must be said about it."""
    from deploy.building import build_bundle
    from deploy.commands.build import BuildOptions
    from deploy.planning import plan_from_options
    from trueint8.progress import progress_for

    asked = _read(folder / BUILD)
    out = str(folder / asked["name"])
    options = BuildOptions(**_fields(asked["options"]), int8=True, out=out, force=True)
    bundle, _ = build_bundle(plan_from_options(options), progress_for())
    search = bundle.manifest.search
    if search is None or search.held:
        return ""
    return f"target drop {search.target_drop:g} {search.drop_unit} not reached"


def profile(folder: Path) -> str:
    """Profile the bundle of a cell."""
    from deploy.commands.profile import ProfileOptions, run

    asked = _read(folder / CELL)
    bundle = bundle_path(folder.parents[1] / "builds" / asked["build"])
    options = ProfileOptions(
        **_fields(asked["profile"]),
        bundles=(str(bundle),),
        out=str(folder / RESULTS),
        force=True,
    )
    run(options, {})
    return ""


_STEPS: dict[str, Callable[[Path], str]] = {"build": build, "profile": profile}


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def _fields(options: dict[str, Any]) -> dict[str, Any]:
    """Return options as a dataclass has them, which JSON has no tuples for."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


def _end_with_parent() -> None:
    """End when the process that started this one is gone, however it ended."""
    os.read(0, 1)  # not sys.stdin, whose lock would be held when this process ends by itself
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _terminate(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    sys.exit(_TERMINATED)
