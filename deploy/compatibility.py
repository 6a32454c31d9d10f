"""Whether this machine is one that an engine's files were built for, before they are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deploy.bundle import Bundle
from deploy.engine_options import EngineOptions
from deploy.engines import ENGINES
from deploy.hardware import INT8_FLAGS, cpu_flags, hardware
from deploy.manifest import EngineEntry
from deploy.sessions import BUILT_CAPABILITY, Engine, Needs
from trueint8.errors import MissingDependency, RunError


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that files were built for and that is otherwise here."""

    what: str
    built: str
    here: str

    def __str__(self) -> str:
        return f"for {self.what} {self.built}, and here is {self.here}"


def check_engine(bundle: Bundle, name: str) -> Engine:
    """Return an engine of a bundle whose files fit this machine.

    Raises:
        MissingDependency: If its library is not installed.
        RunError: If they do not fit; says what they were built for, and the command to rebuild.
    """
    manifest = bundle.manifest
    engine: Engine = ENGINES.load(name)
    entry = manifest.engines[name]
    needs = engine.needs(EngineOptions.from_plain(entry.options))
    asks_hardware = needs.system or needs.capabilities
    here = hardware() if asks_hardware else {}
    found = list(mismatches(needs, entry, engine.version(), manifest.hardware, here))
    if found:
        raise RunError(
            f"{name} of {bundle.path} was built " + "; ".join(map(str, found)),
            fix=f"build it again here: {manifest.command}",
        )
    return engine


def missing_here(name: str) -> str:
    """Return why this machine cannot run an engine at all, or "" if it can."""
    engine: Engine = ENGINES.load(name)
    try:
        engine.version()
    except MissingDependency as err:
        return f"not installed ({err.fix})"
    return "" if engine.runs_here else "built for hardware that is not here"


def mismatches(
    needs: Needs,
    entry: EngineEntry,
    version: str,
    built: Mapping[str, Any],
    here: Mapping[str, Any],
) -> Iterator[Mismatch]:
    """Compare what files need with what is here.

    Args:
        needs: What the engine says of its files.
        entry: The engine's in the manifest.
        version: Of the engine's library here.
        built: Of the machine of the build, as :func:`deploy.hardware.hardware` gives it.
        here: Of this machine.
    """
    if not _version_fits(needs.version, entry.version, version):
        least = " or later" if needs.version == "not older" else ""
        yield Mismatch("version", f"{entry.version}{least}", version)
    if needs.system:
        names = [(m.get("system"), m.get("machine")) for m in (built, here)]
        if all(names[0]) and names[0] != names[1]:
            yield Mismatch("system", *(f"{system} {machine}" for system, machine in names))
    had = set(built.get("cpu_features", ())).intersection(needs.features)
    if had and not cpu_flags().intersection(needs.features):
        have = [f for f in INT8_FLAGS if f in cpu_flags()]
        yield Mismatch("a processor with", " or ".join(needs.features), " ".join(have) or "none")
    if needs.capabilities:
        yield from _gpu_mismatches(needs.capabilities, built, here)


def _version_fits(rule: Literal["same", "not older", "any"], built: str, here: str) -> bool:
    if rule == "same":
        return built == here
    return rule == "any" or version_numbers(here) >= version_numbers(built)


def _gpu_mismatches(
    allowed: tuple[str, ...], built: Mapping[str, Any], here: Mapping[str, Any]
) -> Iterator[Mismatch]:
    """Compare compute capabilities and drivers; one GPU of several that fits is enough.

    That there is none at all is for the engine to say: building again here would not help.
    """
    have = here.get("compute_capability") or []
    if not have:
        return
    own = built.get("compute_capability") or []
    wanted = [c for a in allowed for c in (own if a == BUILT_CAPABILITY else [a])]
    if not any(_capability_fits(c, w) for c in have for w in wanted):
        yield Mismatch("GPUs of compute capability", " ".join(wanted) or "unknown", " ".join(have))
        return
    before, now = built.get("driver"), here.get("driver")
    if before and now and version_numbers(now) < version_numbers(before):
        yield Mismatch("driver", f"{before} or later", now)


def _capability_fits(have: str, wanted: str) -> bool:
    """Say whether ``8.9`` is ``8.9``, or is in ``8.0+``."""
    if wanted.endswith("+"):
        return version_numbers(have) >= version_numbers(wanted)
    return have == wanted


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (1, 31, 1) of ``1.31.1-dev``."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(n) for n in found[0].split(".")) if found else ()
