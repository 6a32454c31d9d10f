"""What a model takes, and how much data is wanted for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class GraphInput:
    """One input of a model; ``shape`` holds None for a dynamic axis."""

    name: str
    dtype: np.dtype
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """How many sequences to take, of what length, in what order."""

    samples: int
    batch_size: int
    sequence: int
    seed: int


def static_axes(inputs: Sequence[GraphInput], request: Request) -> tuple[int, int | None]:
    """Return the batch size, the model's if it is fixed; and the length if that is fixed."""
    axes = [i.shape for i in inputs if len(i.shape) >= 2]
    batch = next((s[0] for s in axes if s[0] is not None), None)
    length = next((s[1] for s in axes if s[1] is not None), None)
    return batch or request.batch_size, length


def is_static(inputs: Sequence[GraphInput]) -> bool:
    """Return whether the model takes batches of one size only."""
    return any(i.shape and i.shape[0] is not None for i in inputs)
