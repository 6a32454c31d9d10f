"""Text files in: one example per line of ``.txt``, one object per line of ``.jsonl``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from trueint8.artifacts import check_memory
from trueint8.errors import DataError

SUFFIXES = (".txt", ".jsonl")

_LINE_END = re.compile(r"\r\n|\n|\r")
"""``str.splitlines`` would also cut at characters that JSON strings may hold, such as U+2028."""


@dataclass(frozen=True, slots=True)
class Example:
    """One piece of text; ``label`` is a class id or name where the file gives one."""

    text: str
    label: int | str | None = None


def read_examples(path: Path) -> list[Example]:
    """Read a ``.txt`` or ``.jsonl`` file, or every such file of a folder in name order.

    Raises:
        DataError: If there is nothing, it is not UTF-8 text, or a line of
            ``.jsonl`` has no string under ``text``.
    """
    inside = [path] if path.is_file() else sorted(path.iterdir())
    files = [p for p in inside if p == path or (p.suffix in SUFFIXES and p.is_file())]
    examples = [example for file in files for example in _read_file(file)]
    if not any(example.text.strip() for example in examples):
        raise DataError(f"{path} holds no text", fix="pass a file with at least one non-empty line")
    return examples


def _read_file(path: Path) -> list[Example]:
    lines = _LINE_END.split(_decoded(path))
    if path.suffix == ".jsonl":
        return [_parsed(path, n, line) for n, line in enumerate(lines, start=1) if line.strip()]
    return [Example(line) for line in lines if line.strip()]


def _decoded(path: Path) -> str:
    fix = "pass UTF-8 text; convert other encodings with `iconv -f FROM -t utf-8`"
    check_memory(path, path.stat().st_size)
    raw = path.read_bytes()
    if b"\0" in raw:
        raise DataError(
            f"{path} is binary: it holds a zero byte at offset {raw.index(bytes(1))}", fix=fix
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise DataError(f"{path} is not UTF-8 text at byte {err.start}", fix=fix) from err


def _parsed(path: Path, number: int, line: str) -> Example:
    fix = 'every line must be an object such as {"text": "...", "label": 1}'
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise DataError(f"{path} line {number} is not JSON: {err}", fix=fix) from err
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise DataError(f'{path} line {number} has no string under "text"', fix=fix)
    label = row.get("label")
    if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
        raise DataError(f"{path} line {number} has a label that is no id or name", fix=fix)
    return Example(row["text"], label)
