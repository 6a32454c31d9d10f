"""``deploy doctor``: what is installed, what can build, what can run."""

from __future__ import annotations

import dataclasses
import re
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
    from deploy.cli import shadowed_packages
    from deploy.hardware import hardware, package_versions

    problems = [*conflicts(installed()), *shadowed_packages()]
    engines = _engines() if not shadowed_packages() else []
    problems += _default_engine_problems(engines) if engines else []
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
            distribution = _distribution_of(name)
            entry["broken"] = distribution is not None
            cause = f"{type(err.__cause__).__name__}: {err.__cause__}"
            entry["note"] = (
                f"installed ({distribution}) and broken: {cause}"
                if distribution
                else f"not installed: {err.fix}"
            )
        else:
            entry |= {"builds": engine.builds_here, "runs": engine.runs_here}
            entry["float"] = list(dict.fromkeys(c.rest for c in engine.floats()))
            if not engine.builds_here:
                entry["note"] = "building and running need an NVIDIA GPU, and none is found"
            elif not engine.runs_here:
                entry["note"] = "builds plans here; running them needs an NVIDIA RTX GPU"
        found.append(entry)
    return found


def _distribution_of(engine: str) -> str | None:
    """Return the installed distribution that brings an engine's library, if there is one."""
    names = re.compile(rf"{re.escape(engine)}(-gpu|-cu\d+)?")
    return next((d for d in sorted(installed()) if names.fullmatch(d)), None)


def _default_engine_problems(engines: list[dict[str, Any]]) -> list[str]:
    import tempfile

    from deploy.engine_choice import choose_engines
    from deploy.probe import probe_engine
    from trueint8.errors import TrueInt8Error

    problems = []
    by_name = {e["engine"]: e for e in engines}
    broken = [e["engine"] for e in engines if e.get("broken")]
    for name in dict.fromkeys([*choose_engines("auto"), *broken]):
        if not by_name[name]["builds"]:
            problems.append(f"the engine {name} is {by_name[name]['note']}")
            continue
        try:
            with tempfile.TemporaryDirectory(prefix="trueint8-") as folder:
                probe_engine(name, Path(folder))
        except TrueInt8Error as err:
            problems.append(f"the default engine {name} does not work: {err.problem}")
        else:
            by_name[name]["probe"] = "ran" if by_name[name]["runs"] else "built"
    return problems


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
        does = "broken" if e.get("broken") else does
        does = "installed" if does == "absent" and e["version"] else does
        floats = f"; float: {', '.join(e['float']).upper()}" if e.get("float") else ""
        note = f"; {e['note']}" if "note" in e else ""
        click.echo(f"{e['engine']:<13} {e['version'] or '-':<12} {does}{floats}{note}")
    click.echo()
    for problem in problems:
        click.echo(f"PROBLEM    {problem}")
    if not problems:
        said = {"ran": "built and ran a probe in INT8", "built": "built a probe in INT8"}
        probed = [f"{e['engine']} {said[e['probe']]}" for e in engines if "probe" in e]
        click.echo(f"no problems: {', '.join(probed)}")


COMMAND = command_from_options(DoctorOptions, run, help=HELP)
