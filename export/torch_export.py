"""Torch module to ONNX, with parity against torch on real samples."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from export.checkpoint import Forward, output_name
from export.onnx_file import save_model
from export.parity import Parity, compare_outputs
from export.passes import clean
from export.reference import open_reference
from export.source import Task
from trueint8.errors import ExportError, TrueInt8Error

Arrays = Mapping[str, np.ndarray]


def export_checkpoint(model: Forward, task: Task, samples: Sequence[Arrays], out: Path) -> Parity:
    """Export to ``out`` with dynamic batch and sequence, and check it against torch.

    Args:
        model: What :func:`export.checkpoint.load_checkpoint` returned.
        task: Decides the output's name.
        samples: Real batches, arrays (B, T) int64 named as the inputs; the
            first also serves as the tracing example.
        out: The ``.onnx`` file to write.

    Raises:
        ExportError: If torch cannot trace the model with both axes dynamic, or
            parity is above the tolerance of :mod:`export.parity`.
    """
    save_model(clean(_traced(model, task, samples[0])), out)
    return _parity(model, out, [*samples, *_reshaped(samples[0])])


def _traced(model: Forward, task: Task, sample: Arrays) -> ir.Model:
    example = _at_least_two(sample)
    dynamic = torch.export.Dim.DYNAMIC
    try:
        with torch.no_grad(), _quiet_exporter():
            program = torch.onnx.export(
                model,
                tuple(torch.from_numpy(example[name]) for name in example),
                input_names=list(example),
                output_names=[output_name(task)],
                dynamic_shapes=tuple({0: dynamic, 1: dynamic} for _ in example),
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
    return _with_named_axes(program.model)


def _with_named_axes(model: ir.Model) -> ir.Model:
    """Call the first two axes of every input ``batch`` and ``sequence``, and outputs likewise."""
    renamed: dict[str, str] = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        renamed |= {str(value.shape[0]): "batch", str(value.shape[1]): "sequence"}
        value.shape = ir.Shape(["batch", "sequence", *value.shape[2:]])
    for value in model.graph.outputs:
        assert value.shape is not None
        value.shape = ir.Shape([renamed.get(str(d), d) for d in value.shape])
    return model


def _at_least_two(sample: Arrays) -> dict[str, np.ndarray]:
    """Repeat a batch of one: torch would freeze an axis of length 1."""
    return {k: np.concatenate([v, v]) if len(v) == 1 else v for k, v in sample.items()}


def _reshaped(sample: Arrays) -> list[dict[str, np.ndarray]]:
    """Return the first sequence alone and shortened: another batch and another length."""
    length = next(iter(sample.values())).shape[1]
    return [{k: v[:1, : max(1, length // 2)] for k, v in sample.items()}]


def _parity(model: Forward, onnx_path: Path, batches: Sequence[Arrays]) -> Parity:
    pairs = []
    with open_reference(onnx_path) as run:
        for batch in batches:
            with torch.no_grad():
                expected = model(*(torch.from_numpy(v) for v in batch.values())).numpy()
            actual = next(iter(run(dict(batch)).values()))
            if expected.ndim == 3:
                seen = batch["attention_mask"].astype(bool)
                expected, actual = expected[seen], actual[seen]
            pairs.append((expected, actual))
    return compare_outputs(pairs, [list(b["input_ids"].shape) for b in batches], "torch")


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
