"""Inputs of given shapes for a session, where nobody gave any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from calib.inputs import GraphInput
from deploy.sessions import Shapes

USUAL = 1
"""Index of the usual one among an input's three shapes."""


def blank_inputs(inputs: Sequence[GraphInput], shapes: Shapes) -> dict[str, np.ndarray]:
    """Return zeros of the usual shapes; masks are 1, so that nothing is masked out.

    Args:
        inputs: Of a session.
        shapes: Of each of them.
    """
    return {i.name: np.full(shapes[i.name][USUAL], int("mask" in i.name), i.dtype) for i in inputs}


def draw_shaped(
    inputs: Sequence[GraphInput],
    shapes: Mapping[str, tuple[int, ...]],
    rows: Mapping[str, int | None],
    seed: int,
) -> dict[str, np.ndarray]:
    """Draw inputs that hold nothing of anyone's data.

    Token ids are uniform over the vocabulary, masks are 1, segments are 0,
    positions count up, other floats are standard normal.

    Args:
        inputs: What to draw.
        shapes: Of each.
        rows: Of the embedding table that each integer input indexes, where it does.
        seed: Makes the draw repeatable.
    """
    draw = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for item in inputs:
        shape = shapes[item.name]
        array: np.ndarray
        if item.dtype.kind == "f":
            array = draw.standard_normal(shape)
        elif "mask" in item.name:
            array = np.ones(shape)
        elif item.name == "position_ids":
            array = np.broadcast_to(np.arange(shape[-1]), shape)
        else:
            array = draw.integers(0, rows[item.name] or 1, shape)
            array = np.zeros(shape) if item.name == "token_type_ids" else array
        arrays[item.name] = np.ascontiguousarray(array.astype(item.dtype))
    return arrays
