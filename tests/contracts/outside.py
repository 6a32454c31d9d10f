"""Which importable modules are not part of a plain ``pip install trueint8``."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def project() -> dict[str, Any]:
    """Return the ``[project]`` table."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table


def optional_modules() -> list[str]:
    """Return the installed top-level modules that only extras or strangers bring."""
    needed = _closure(project()["dependencies"])
    return sorted(
        module
        for module, distributions in metadata.packages_distributions().items()
        if not needed & {_canonical(d) for d in distributions} and module.isidentifier()
    )


def _closure(requirements: list[str]) -> set[str]:
    found: set[str] = {"trueint8"}
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        name = _canonical(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
        if name in found or "extra ==" in requirement:
            continue
        found.add(name)
        try:
            waiting += metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another platform or Python
            continue
    return found


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


BLOCKER = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

BLOCKED = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Absent())
"""
"""Start of a program whose first argument names modules, joined by commas, that are not there."""
