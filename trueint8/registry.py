"""Names found by listing a folder; only the chosen file is imported."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from trueint8.errors import ConfigError, UnknownName


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'? `` with the known name closest to ``name``, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


@functools.cache
def _entry_points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Return what installed distributions bring, which takes reading a file of each."""
    return tuple(entry_points(group=group))


class Registry:
    """One folder of interchangeable files, each holding one named thing.

    The file ``running_minmax.py`` is the name ``running-minmax``. Other
    distributions join through the entry-point group ``trueint8.<kind>s``.

    Args:
        kind: Singular noun for messages, such as ``engine``.
        package: Dotted name of the folder, such as ``deploy.engines``.
        attribute: What each file defines under that name.
    """

    def __init__(self, kind: str, package: str, attribute: str) -> None:
        self.kind = kind
        self.package = package
        self.attribute = attribute

    def _files(self) -> dict[str, Path]:
        spec = importlib.util.find_spec(self.package)
        assert spec is not None and spec.submodule_search_locations, self.package
        return {
            path.stem.replace("_", "-"): path
            for folder in spec.submodule_search_locations
            for path in Path(folder).glob("*.py")
            if not path.stem.startswith("_")
        }

    def _plugins(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        files = self._files()
        for point in _entry_points(f"trueint8.{self.kind}s", tuple(sys.path)):
            first = files.get(point.name) or (
                found[point.name].value if point.name in found else None
            )
            if first is not None:
                raise ConfigError(
                    f"two {self.kind}s are called {point.name!r}: {first} and {point.value}",
                    fix=f"uninstall the distribution that brings {point.value}",
                )
            found[point.name] = point
        return found

    def names(self) -> list[str]:
        """Return every registered name, sorted, importing none of them."""
        return sorted({*self._files(), *self._plugins()})

    def load(self, name: str) -> Any:
        """Import the file behind ``name`` and return what it defines.

        Raises:
            UnknownName: If nothing has that name; lists what has.
            ConfigError: If two things have it.
        """
        plugins = self._plugins()
        if name in self._files():
            module = importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
            return getattr(module, self.attribute)
        if name in plugins:
            return plugins[name].load()
        raise self._unknown(name)

    def check(self, name: str) -> None:
        """Refuse a name that nothing has, importing nothing.

        Raises:
            UnknownName: Listing the names there are.
        """
        if name not in self.names():
            raise self._unknown(name)

    def _unknown(self, name: str) -> UnknownName:
        names = self.names()
        return UnknownName(
            f"no {self.kind} is called {name!r}",
            fix=f"{did_you_mean(name, names)}choose one of: {', '.join(names)}",
        )
