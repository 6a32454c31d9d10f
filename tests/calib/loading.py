"""Data files to write, and :func:`load_samples` with defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from calib.data import Samples, load_samples
from calib.inputs import GraphInput, Request
from export.source import Task

INT64 = np.dtype(np.int64)
IDS = GraphInput("input_ids", INT64, (None, None))
MASK = GraphInput("attention_mask", INT64, (None, None))
X = GraphInput("x", np.dtype(np.float32), (None, 4))
LINES = [f"line {i} of the text, width * {i}" for i in range(40)]


def load(
    path: Path,
    *,
    inputs: tuple[GraphInput, ...] = (IDS, MASK),
    samples: int = 8,
    batch: int = 4,
    sequence: int = 16,
    seed: int = 0,
    task: Task = "fill-mask",
    tokenizer: Path | None = None,
    label_ids: dict[str, int] | None = None,
) -> Samples:
    """Load with defaults that suit most tests."""
    request = Request(samples, batch, sequence, seed)
    return load_samples(path, request, inputs, task=task, tokenizer=tokenizer, label_ids=label_ids)


def write_text_file(folder: Path, lines: list[str] | None = None) -> Path:
    """Write lines as ``data.txt``."""
    path = folder / "data.txt"
    path.write_text("\n".join(LINES if lines is None else lines), encoding="utf-8")
    return path


def write_arrays(folder: Path, **values: Any) -> Path:
    """Write arrays as ``data.npz``."""
    path = folder / "data.npz"
    np.savez(path, **values)
    return path
