"""The command line: finds commands in their folder, prints errors, sets exit codes."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from deploy.commands import COMMANDS
from trueint8 import __version__
from trueint8.errors import ConfigError, TrueInt8Error

PACKAGES = ("trueint8", "attention", "export", "calib", "deploy")
INTERRUPTED = 130
TERMINATED = 143
INTERNAL = 70
_OF_PATHS = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO)


class LazyGroup(click.Group):
    """A group whose commands are the files of a folder; only the chosen one is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, importing nothing."""
        del ctx
        return COMMANDS.names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        del ctx
        command: click.Command = COMMANDS.load(cmd_name)
        return command


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Take trained transformers to INT8 engines that really run in INT8, and prove it.

    \b
    deploy demo                                  the whole job on two small models
    deploy build MODEL --int8 --calib percentile --calib-data TEXT -o OUT
    deploy profile OUT --data EVAL               latency, memory, accuracy
    deploy inspect OUT                           which matmuls run in INT8
    deploy report results.jsonl -o report.html
    """,
    epilog="Every figure is MEASURED (an engine ran), SIMULATED (quantized values, float "
    "arithmetic), PREDICTED (a model of the hardware) or BUILT (compiled for hardware that is "
    "not here), and says so.",
)
@click.version_option(__version__, prog_name="trueint8")
@click.option("--debug", is_flag=True, help="Show tracebacks instead of one-line errors.")
def group(debug: bool) -> None:
    """Take trained transformers to INT8 engines."""
    del debug


def main() -> NoReturn:
    """Run the command line and exit."""
    debug = "--debug" in sys.argv[1:]
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = _run(arguments)
    except _Terminated:
        code = TERMINATED
    except (KeyboardInterrupt, click.Abort):
        print("deploy: interrupted; nothing half-written was left", file=sys.stderr)
        code = INTERRUPTED
    except click.ClickException as err:
        err.show()
        code = err.exit_code
    except Exception as err:
        if debug and not isinstance(err, BrokenPipeError):
            raise
        code = _told(err)
    sys.stdout.flush()
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    if "doctor" not in arguments[:1]:  # which reports what it finds
        check_one_installation()
    result = group.main(arguments, prog_name="deploy", standalone_mode=False)
    return result if isinstance(result, int) else 0


def _told(err: Exception) -> int:
    """Print what went wrong, in one line with what to do, and return the exit code."""
    if isinstance(err, BrokenPipeError):  # nobody reads on: no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(err, OSError) and err.filename is not None and err.errno in _OF_PATHS:
        # a path of the user's that cannot be used, whoever came upon it
        err = ConfigError(
            f"{err.filename}: {err.strerror}", fix="check the path, and who may use it"
        )
    if isinstance(err, TrueInt8Error):
        print(f"deploy: error: {_harmless(str(err))}", file=sys.stderr)
        return err.exit_code
    told = _harmless(f"{type(err).__name__}: {err}")
    print(f"deploy: internal error: {told}", file=sys.stderr)
    print("  fix: this is a defect; report it with the output of --debug", file=sys.stderr)
    return INTERNAL


def _harmless(text: str) -> str:
    """Return a message without characters that steer a terminal; names in files may hold some."""
    kept = (c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return "".join(kept)


class _Terminated(BaseException):
    """SIGTERM, raised so that temporary folders are removed on the way out."""


def _terminate(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise _Terminated


def shadowed_packages() -> list[str]:
    """Return a line for each of our packages that another one of the same name stands in for."""
    home = Path(__file__).resolve().parents[1]
    lines = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if origin is None or origin.parents[1] != home:
            lines.append(f"the package {name!r} comes from {origin or 'nowhere'}, not from {home}")
    return lines


def check_one_installation() -> None:
    """Refuse to run if another package of the same name stands in for one of ours.

    Raises:
        ConfigError: Naming the file that shadows ours.
    """
    for line in shadowed_packages():
        raise ConfigError(
            line,
            fix="install trueint8 in an environment of its own (pipx or uv tool), or rename "
            "that package",
        )
