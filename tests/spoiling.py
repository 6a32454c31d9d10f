"""Strategies for files as an attacker or a bad disk leaves them, and what must hold of each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from trueint8.errors import TrueInt8Error

fuzzed = settings(
    deadline=timedelta(seconds=30),  # against hangs, on the slowest machine
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=100,
    derandomize=True,
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../../x", "/etc/passwd", "a\0b", "x" * 5000, "\x1b[2J", "1e999", "~root"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | scalars, inner)
    ),
    max_leaves=10,
)
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=10,
)
"""What JSON can hold."""


@st.composite
def spoilt(draw: st.DrawFn, raw: bytes) -> bytes:
    """Draw bytes that differ from ``raw`` in a few places, or in length."""
    found = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(found) - 1, 0)))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            found[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == 1:
            del found[at:]
        elif kind == 2:
            found[at:at] = draw(st.binary(max_size=12))
        elif kind == 3:
            del found[at : at + draw(st.integers(1, 64))]
        else:
            found[at:at] = found[at : at + draw(st.integers(1, 64))]
    return bytes(found)


@st.composite
def edited(draw: st.DrawFn, content: Any, inside: st.SearchStrategy[Any] = plain) -> Any:
    """Draw plain data with some values somewhere inside replaced, removed, added or renamed."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 3))):
        holder = content
        while True:
            keys = list(holder if isinstance(holder, dict) else range(len(holder)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(holder[key], dict | list) and holder[key] and draw(st.booleans()):
                holder = holder[key]
                continue
            kind = draw(st.integers(0, 3))
            if kind == 0:
                del holder[key]
            elif kind == 1 and isinstance(holder, dict):
                holder[draw(st.text(max_size=6))] = holder.pop(key)
            else:
                holder[key] = draw(inside)
            break
    return content


def ours_alone(call: Callable[[], Any]) -> Any:
    """Return what a call gives, or None where it refuses as everything here must."""
    try:
        return call()
    except TrueInt8Error as err:
        assert err.problem and err.fix
        return None


@contextlib.contextmanager
def nothing_written(folder: Path, *, but: Path | None = None) -> Iterator[None]:
    """Check that a block changes nothing below a folder, except at one path."""
    before = _seen(folder, but)
    yield
    assert _seen(folder, but) == before


def _seen(folder: Path, but: Path | None) -> dict[Path, tuple[int, int]]:
    found = {}
    for path in folder.rglob("*"):
        if but is None or not path.is_relative_to(but):
            state = path.lstat()
            found[path] = (state.st_size if path.is_file() else 0, state.st_mtime_ns)
    return found
