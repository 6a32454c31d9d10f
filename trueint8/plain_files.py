"""YAML and TOML files as plain data, bounded in size, depth and repetition before they grow."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueint8.errors import ConfigError

if TYPE_CHECKING:
    import yaml

LARGEST_BYTES = 1 << 18
LARGEST_NODES = 20_000
"""Values in a file, those counted again that an alias repeats."""

SPOILT = (ValueError, LookupError, AttributeError, TypeError, RecursionError, OverflowError)
"""What PyYAML raises, beside its own errors, of a scalar that is not of its tag, and of depth."""


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds, by safe tags only; None of an empty one.

    Raises:
        ConfigError: If it cannot be read, is not YAML, or is too large once its aliases are
            written out.
    """
    return _read(path, "YAML", yaml_from_text)


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds.

    Raises:
        ConfigError: If it cannot be read, or is not TOML.
    """
    found: dict[str, Any] = _read(path, "TOML", tomllib.loads)
    return found


def _read(path: Path, form: str, parse: Callable[[str], Any]) -> Any:
    try:
        with path.open("rb") as stream:
            raw = stream.read(LARGEST_BYTES + 1)
    except OSError as err:
        raise ConfigError(
            f"{path} cannot be read: {err.strerror}", fix="check its permissions"
        ) from err
    if len(raw) > LARGEST_BYTES:
        raise ConfigError(f"{path} has more than {LARGEST_BYTES} bytes", fix="write less into it")
    try:
        found = parse(raw.decode("utf-8"))
        if _holds_zero(found):
            raise ValueError("a text holds a zero character")
    except SPOILT as err:
        told = "it is nested too deeply" if isinstance(err, RecursionError) else str(err)
        raise ConfigError(f"{path} is not valid {form}: {told}", fix="correct the file") from err
    return found


def yaml_from_text(text: str) -> Any:
    """Return what YAML holds, by safe tags only.

    Raises:
        ValueError: If it is not YAML, or too large once its aliases are written out; as the
            library has it, also a LookupError, AttributeError, TypeError or RecursionError.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded(node, {}) > LARGEST_NODES:
            raise ValueError(f"it holds more than {LARGEST_NODES} values")
        return loader.construct_document(node)
    except yaml.YAMLError as err:
        raise ValueError(str(err)) from err


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node is once every alias is written out."""
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return 1
    if known.get(id(node)) == 0:
        raise ValueError("it holds itself")
    if id(node) not in known:
        known[id(node)] = 0
        pairs = isinstance(node, yaml.MappingNode)
        inside = [part for pair in node.value for part in pair] if pairs else node.value
        known[id(node)] = 1 + sum(_expanded(part, known) for part in inside)
    return known[id(node)]


def _holds_zero(found: Any) -> bool:
    """Say whether a text in it holds a zero character, which ends a path."""
    if isinstance(found, dict):
        return any(_holds_zero(part) for pair in found.items() for part in pair)
    if isinstance(found, list | tuple):
        return any(map(_holds_zero, found))
    return isinstance(found, str) and "\0" in found
