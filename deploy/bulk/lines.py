"""Lines of a file, one at a time, with where each ends."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trueint8.errors import DataError

SUFFIXES = (".txt", ".jsonl")
LONGEST_BYTES = 16 * 2**20

_PART_BYTES = 2**20
_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is not blank.

    Attributes:
        number: From 1, blank ones counted.
        raw: Its bytes, without the end of the line.
        end: Bytes of the file up to and with its end.
    """

    number: int
    raw: bytes
    end: int


def check_input(path: Path) -> None:
    """Refuse what cannot be read line by line.

    Raises:
        DataError: Naming it.
    """
    fix = f"pass a {' or '.join(SUFFIXES)} file"
    if not path.is_file():
        raise DataError(f"no input file at {path}", fix=fix)
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path} is no {' or '.join(SUFFIXES)} file", fix=fix)
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} cannot be read", fix="change its permissions")


def read_lines(path: Path, offset: int, number: int) -> Iterator[Line]:
    """Yield the lines of a file that are not blank.

    Args:
        path: The file.
        offset: Where to begin: the end of a line.
        number: Of the line that ends there.

    Raises:
        DataError: If a line is longer than :data:`LONGEST_BYTES`.
    """
    with path.open("rb") as stream:
        stream.seek(offset)
        while raw := stream.readline(LONGEST_BYTES + 1):
            number += 1
            if len(raw) > LONGEST_BYTES:
                raise DataError(
                    f"{path} line {number} is longer than {LONGEST_BYTES} bytes",
                    fix="cut it, or check that the file has line ends",
                )
            offset += len(raw)
            kept = raw.removeprefix(_MARK) if number == 1 else raw
            if kept.strip():
                yield Line(number, kept.rstrip(b"\r\n"), offset)


def count_lines(path: Path) -> int:
    """Return how many lines a file has, a last one without an end included."""
    found, last = 0, b"\n"
    with path.open("rb") as stream:
        while part := stream.read(_PART_BYTES):
            found += part.count(b"\n")
            last = part[-1:]
    return found + (last != b"\n")


class Prefix:
    """The SHA-256 of a file's start, which grows; every byte is read once."""

    def __init__(self, path: Path) -> None:
        self._path, self._digest, self._size = path, hashlib.sha256(), 0

    def sha256(self, size: int) -> str:
        """Return the hexadecimal digest of the first ``size`` bytes, no fewer than before."""
        with self._path.open("rb") as stream:
            stream.seek(self._size)
            while self._size < size and (part := stream.read(min(size - self._size, _PART_BYTES))):
                self._digest.update(part)
                self._size += len(part)
        return self._digest.hexdigest()
