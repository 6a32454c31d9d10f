"""The real command, in this process (fast) or in one of its own (where the process counts)."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from deploy import cli

DEPLOY = (sys.executable, "-c", "from deploy.cli import main; main()")
STAGING = ".staging-"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)

    def refused(self, code: int, *words: str) -> str:
        """Check that the command refused as every command must; return the message.

        One ``deploy: error:`` line, a ``fix:`` line, the exit code of its kind,
        no result on standard output and no traceback.
        """
        assert self.code == code, self.err
        assert "Traceback" not in self.err, self.err
        start = self.err.index("deploy: error: ")
        message = self.err[start:]
        problem, _, fix = message.partition("\n  fix: ")
        assert fix.strip(), f"no fix in: {message}"
        assert problem.removeprefix("deploy: error: ").strip()
        assert len(self.out.splitlines()) <= 1, self.out  # what a build says it will do
        for word in words:
            assert word in message, f"{word!r} is not in: {message}"
        return message


def run_here(*arguments: object, cwd: Path | None = None) -> Ended:
    """Run ``deploy`` in this process, standard streams and exit code included."""
    out, err = io.StringIO(), io.StringIO()
    terminate = signal.getsignal(signal.SIGTERM)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", ["deploy", *map(str, arguments)]))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        if cwd is not None:
            stack.enter_context(contextlib.chdir(cwd))
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        finally:
            signal.signal(signal.SIGTERM, terminate)
    assert isinstance(code, int)
    return Ended(code, out.getvalue(), err.getvalue())


def start(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start ``deploy`` as a process that Ctrl-C can end, even where the tests run in background."""
    return subprocess.Popen(
        [*DEPLOY, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run_process(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Ended:
    """Run ``deploy`` as a process to its end."""
    process = start(*arguments, cwd=cwd, env=env)
    out, err = process.communicate(timeout=240)
    return Ended(process.returncode, out, err)


def left_behind(folder: Path, target: Path) -> list[str]:
    """Return what a failed command left: its target, staging folders, temporary files."""
    return sorted(
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p == target or STAGING in p.name or p.name.startswith(f".{target.name}")
    )
