"""What taps are called among the outputs of an engine."""

from __future__ import annotations

from collections.abc import Collection

_PREFIX = "tapped "


def output_name(value: str, outputs: Collection[str]) -> str:
    """Return the output that gives a value: the graph's own where it is one."""
    return value if value in outputs else _PREFIX + value


def value_name(output: str) -> str:
    """Return the value that an output gives."""
    return output.removeprefix(_PREFIX)
