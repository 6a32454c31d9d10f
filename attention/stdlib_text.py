"""Text that every machine has: the source of the running Python's standard library."""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path
from typing import Literal

from trueint8.errors import ConfigError, DataError

Split = Literal["train", "held-out"]

# Installed packages, test-suites, and tables of code points: not text of the library.
_SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "__pycache__"}
)
_HELD_OUT_ONE_IN = 10
_LEAST_BYTES = 1_000_000
# One generated file of manual pages is 0.7 MB, which would swamp a small sample.
_MOST_BYTES_OF_ONE_FILE = 131_072


def stdlib_documents(split: Split, *, max_bytes: int | None = None) -> list[str]:
    """Return the standard library's Python files, code and docstrings, one string each.

    The SHA-256 of a file's path, relative to the library's folder, puts the file
    into its split and orders the list; so a held-out file is never trained on,
    a prefix of the list is a fair mix, and the same Python gives the same list.
    About one file in ten is held out. Files that are not UTF-8 are left out, and
    no file gives more than its first 128 KiB.

    Args:
        split: Which part.
        max_bytes: Stop here, >= 1; the last document is cut to fit. None means all.

    Raises:
        ConfigError: If ``max_bytes`` or ``split`` is out of range.
        DataError: If this Python was installed without its source.
    """
    if split not in ("train", "held-out"):
        raise ConfigError(f"no split is called {split!r}", fix="choose one of: train, held-out")
    if max_bytes is not None and max_bytes < 1:
        raise ConfigError(
            f"max_bytes={max_bytes} is out of range; expected max_bytes >= 1",
            fix="pass None for all of the text",
        )
    documents: list[str] = []
    left = max_bytes
    for file in _files_in_hash_order(Path(sysconfig.get_paths()["stdlib"])):
        if left == 0:
            break
        if is_held_out(file.relative) != (split == "held-out"):
            continue
        most = _MOST_BYTES_OF_ONE_FILE if left is None else min(left, _MOST_BYTES_OF_ONE_FILE)
        text = _text_or_none(file.path, most)
        if not text:
            continue
        documents.append(text)
        if left is not None:
            left -= min(file.size, most)
    return documents


def is_held_out(relative: str) -> bool:
    """Return whether a path, relative to the library's folder with ``/``, is held out."""
    return int(_digest(relative)[-8:], 16) % _HELD_OUT_ONE_IN == 0


class _File:
    """A source file with what is needed to choose it."""

    __slots__ = ("path", "relative", "size")

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        self.relative = path.relative_to(root).as_posix()
        self.size = path.stat().st_size


def _files_in_hash_order(root: Path) -> list[_File]:
    files = [
        _File(path, root)
        for path in root.rglob("*.py")
        if _SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts) and path.is_file()
    ]
    total = sum(file.size for file in files)
    if total < _LEAST_BYTES:
        raise DataError(
            f"the standard library in {root} holds {total} bytes of source, "
            f"which is less than {_LEAST_BYTES}; this Python was installed without it",
            fix="use a full installation of Python (not zipped, not only .pyc files), "
            "or give text of your own",
        )
    return sorted(files, key=lambda file: _digest(file.relative))


def _digest(relative: str) -> str:
    return hashlib.sha256(relative.encode()).hexdigest()


def _text_or_none(path: Path, limit: int) -> str | None:
    """Return the file's text, cut to ``limit`` bytes, or None if it is not UTF-8."""
    raw = path.read_bytes()
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return raw[:limit].decode("utf-8", errors="ignore")
