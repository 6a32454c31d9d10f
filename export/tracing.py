"""Torch module to ONNX graph, with named dynamic axes."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import torch
from torch.utils import _pytree as pytree

from trueint8.errors import ExportError, TrueInt8Error

DEFAULT_OPSET = 20
OPSETS = (18, 23)
"""Oldest and newest that torch's exporter writes and every engine here reads."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A module and how its tensors are called in the graph.

    Attributes:
        module: What is traced, called with keywords.
        example: Its keyword arguments; tuples of tensors may be among them. Dynamic axes
            must be longer than 1.
        inputs: Names in the graph, in the order in which ``example`` flattens.
        outputs: Names of the outputs.
        axes: Name of each dynamic axis, per input; the same name is the same length.
    """

    module: torch.nn.Module
    example: Mapping[str, Any]
    inputs: Sequence[str]
    outputs: Sequence[str]
    axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


def trace(traced: Traced, *, opset: int = DEFAULT_OPSET) -> ir.Model:
    """Return the graph that torch's exporter makes, not cleaned yet.

    Raises:
        ExportError: If torch cannot trace the module with these axes dynamic.
    """
    names = iter(traced.inputs)
    dynamic = torch.export.Dim.DYNAMIC
    shapes = pytree.tree_map(
        lambda _: {axis: dynamic for axis in traced.axes.get(next(names), {})},
        dict(traced.example),
    )
    try:
        with torch.no_grad(), _quiet_exporter():
            program = torch.onnx.export(
                traced.module,
                kwargs=dict(traced.example),
                input_names=list(traced.inputs),
                output_names=list(traced.outputs),
                dynamic_shapes=shapes,
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except Exception as err:  # the exporter raises whatever the traced model raises
        cause = err.__cause__ or err
        if isinstance(cause, TrueInt8Error):
            raise cause from err
        first = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise ExportError(
            f"torch cannot export this model with dynamic batch and sequence: {first}",
            fix="export it to ONNX yourself and pass the .onnx file",
        ) from err
    assert program is not None
    return _with_named_axes(program.model, traced.axes)


def _with_named_axes(model: ir.Model, axes: Mapping[str, Mapping[int, str]]) -> ir.Model:
    """Call the dynamic axes of inputs by their names, and those of outputs likewise."""
    renamed: dict[str, str] = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        for axis, name in axes.get(str(value.name), {}).items():
            if re.fullmatch(r"[A-Za-z_]\w*", str(value.shape[axis])):
                renamed.setdefault(str(value.shape[axis]), name)
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None
        value.shape = ir.Shape([_renamed(d, renamed) for d in value.shape])
    return model


def _renamed(dimension: Any, renamed: Mapping[str, str]) -> Any:
    if isinstance(dimension, int):
        return dimension
    return re.sub(r"[A-Za-z_]\w*", lambda m: renamed.get(m[0], m[0]), str(dimension))


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
