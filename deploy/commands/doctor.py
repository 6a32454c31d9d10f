"""``deploy doctor``: what is installed, what can build, what can run."""

from __future__ import annotations

import dataclasses
import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from deploy.options import command_from_options, option, print_json

HELP = """Check this installation and this machine.

Exit code 0 only if the default engines work and nothing conflicts.

\b
Examples:
  deploy doctor
  deploy doctor --json
"""

_EXCLUSIVE = ("onnxruntime", "onnxruntime-gpu")


@dataclasses.dataclass(frozen=True, slots=True)
class DoctorOptions:
    """Everything ``deploy doctor`` can be told."""

    json: bool = option(False, type=bool, help="Print the findings as JSON.")


def run(options: DoctorOptions) -> None:
    """Print findings; exit 1 if there are problems."""
    from deploy.hardware import hardware, package_versions

    engines = _engines()
    problems = [*conflicts(installed()), *_shadowed(), *_default_engine_problems(engines)]
    machine = hardware()
    versions = package_versions()
    if options.json:
        print_json(
            {"machine": machine, "packages": versions, "engines": engines, "problems": problems}
        )
    else:
        _print(machine, versions, engines, problems)
    if problems:
        raise click.exceptions.Exit(1)


def installed() -> set[str]:
    """Return the names of all installed distributions, normalized."""
    return {str(d.name).lower().replace("_", "-") for d in metadata.distributions()}


def conflicts(names: set[str]) -> list[str]:
    """Return a line with its fix for each set of distributions that exclude each other."""
    if not names.issuperset(_EXCLUSIVE):
        return []
    return [
        "onnxruntime and onnxruntime-gpu are both installed; they share one folder and the CPU "
        "build silently wins. Fix: pip uninstall -y onnxruntime onnxruntime-gpu && "
        "pip install onnxruntime   (or onnxruntime-gpu on a GPU machine)"
    ]


def _engines() -> list[dict[str, Any]]:
    from deploy.engines import ENGINES
    from trueint8.errors import MissingDependency

    found = []
    for name in ENGINES.names():
        entry: dict[str, Any] = {"engine": name, "version": None, "builds": False, "runs": False}
        try:
            engine = ENGINES.load(name)
            entry["version"] = engine.version()
        except MissingDependency as err:
            entry["note"] = f"not installed: {err.fix}"
        else:
            entry |= {"builds": True, "runs": engine.runs_here}
            entry["float"] = engine.float_precisions()
            if not engine.runs_here:
                entry["note"] = "builds plans here; running them needs an NVIDIA RTX GPU"
        found.append(entry)
    return found


def _default_engine_problems(engines: list[dict[str, Any]]) -> list[str]:
    import tempfile

    from deploy.planning import choose_engines
    from deploy.probe import probe_engine
    from trueint8.errors import TrueInt8Error

    problems = []
    by_name = {e["engine"]: e for e in engines}
    for name in choose_engines("auto"):
        if not by_name[name]["builds"]:
            problems.append(f"the default engine {name} is {by_name[name]['note']}")
            continue
        try:
            with tempfile.TemporaryDirectory(prefix="trueint8-") as folder:
                probe_engine(name, Path(folder))
        except TrueInt8Error as err:
            problems.append(f"the default engine {name} does not work: {err.problem}")
    return problems


def _shadowed() -> list[str]:
    home = Path(__file__).resolve().parents[2]
    lines = []
    for name in ("trueint8", "attention", "export", "calib", "deploy"):
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if origin is None or origin.parents[1] != home:
            lines.append(f"the package {name!r} comes from {origin}, not from {home}")
    return lines


def _print(
    machine: dict[str, Any],
    versions: dict[str, str],
    engines: list[dict[str, Any]],
    problems: list[str],
) -> None:
    click.echo(f"processor  {machine['cpu']}, {machine['cores']} usable cores")
    click.echo(f"features   {' '.join(machine['cpu_features']) or 'none that speed up INT8'}")
    click.echo(f"memory     {machine['memory_mib'] / 1024:.1f} GiB")
    click.echo(f"GPU        {machine['gpu'] or 'none found (nvidia-smi)'}")
    click.echo(f"Python     {machine['python']}")
    click.echo("packages   " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    click.echo()
    for e in engines:
        does = "builds and runs here" if e["runs"] else "builds here" if e["builds"] else "absent"
        floats = f"; float: {', '.join(e['float']).upper()}" if e.get("float") else ""
        note = f"; {e['note']}" if "note" in e else ""
        click.echo(f"{e['engine']:<13} {e['version'] or '-':<12} {does}{floats}{note}")
    click.echo()
    for problem in problems:
        click.echo(f"PROBLEM    {problem}")
    if not problems:
        click.echo("no problems: the default engines built and ran a probe in INT8")


COMMAND = command_from_options(DoctorOptions, run, help=HELP)
