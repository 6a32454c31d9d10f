"""The shapes a graph from anywhere is built and run with: ``input_ids:8x128,mask:8x128``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from calib.inputs import GraphInput
from deploy.sessions import Shapes
from trueint8.errors import ConfigError, ExportError
from trueint8.registry import did_you_mean

BATCH = 8
TOKENS = 128
"""Lengths of dynamic axes that nobody gave: the first one of an input, and the others."""

Given = Mapping[str, tuple[int, ...]]


def parse_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """Read ``name:8x128,other:8x128``, as trtexec spells it.

    Raises:
        ConfigError: At anything else.
    """
    found = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, lengths = part.rpartition(":")
        sizes = lengths.split("x")
        if not name or not all(s.isdecimal() and int(s) > 0 for s in sizes):
            raise ConfigError(
                f"--shapes {part!r} names no shape", fix="pass --shapes input_ids:8x128,mask:8x128"
            )
        found[name] = tuple(map(int, sizes))
    return found


def inputs_of(model: ir.Model) -> list[GraphInput]:
    """Return the inputs of any graph with its fixed and dynamic axes.

    Raises:
        ExportError: If one has no type or no shape.
    """
    found = []
    for value in model.graph.inputs:
        if value.shape is None or value.dtype is None:
            raise ExportError(
                f"the graph's input {value.name!r} has no shape or type",
                fix="export the model with the types and shapes of its inputs",
            )
        shape = tuple(d if isinstance(d, int) else None for d in value.shape)
        found.append(GraphInput(str(value.name), np.dtype(value.dtype.numpy()), shape))
    return found


def choose_shapes(model: ir.Model, given: Given) -> dict[str, tuple[int, ...]]:
    """Return the shape of every input: as given, as the graph fixes it, else a usual one.

    Axes of one name have one length.

    Raises:
        ConfigError: If a name or length is not the graph's.
    """
    inputs = {str(v.name): v for v in model.graph.inputs}
    for name in given:
        if name not in inputs:
            raise ConfigError(
                f"the graph has no input {name!r}",
                fix=f"{did_you_mean(name, inputs)}choose from: {', '.join(inputs)}",
            )
    known: dict[str, int] = {}
    for name, lengths in given.items():
        known |= _named_lengths(inputs[name], lengths)
    return {
        name: given[name] if name in given else _usual(value, known)
        for name, value in inputs.items()
    }


def profile_shapes(model: ir.Model, chosen: Given) -> Shapes:
    """Return, per input, the smallest, the chosen and again the chosen shape."""
    return {
        str(v.name): (
            tuple(d if isinstance(d, int) else 1 for d in v.shape or ()),
            chosen[str(v.name)],
            chosen[str(v.name)],
        )
        for v in model.graph.inputs
    }


def shapes_text(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return shapes as :func:`parse_shapes` reads them."""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def _named_lengths(value: ir.Value, lengths: Sequence[int]) -> dict[str, int]:
    axes = list(value.shape or ())
    fits = len(axes) == len(lengths) and all(
        not isinstance(d, int) or d == n for d, n in zip(axes, lengths, strict=False)
    )
    if not fits:
        told = "x".join(str(d) if isinstance(d, int) else "?" for d in axes)
        raise ConfigError(
            f"--shapes gives {value.name!r} {'x'.join(map(str, lengths))}, the graph has {told}",
            fix="give dynamic axes (?) any length and keep the others",
        )
    return {
        str(d.value): n
        for d, n in zip(axes, lengths, strict=True)
        if isinstance(d, ir.SymbolicDim) and d.value is not None
    }


def _usual(value: ir.Value, known: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(
        d if isinstance(d, int) else known.get(str(d.value), TOKENS if axis else BATCH)
        for axis, d in enumerate(value.shape or ())
    )
