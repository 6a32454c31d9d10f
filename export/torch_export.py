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

from export.checkpoint import Forward, is_causal, output_name
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
        samples: Real batches, arrays (B, T) int64 or images (B, C, H, W) float32, named as
            the inputs; the first also serves as the tracing example.
        out: The ``.onnx`` file to write.

    Raises:
        ExportError: If torch cannot trace the model with both axes dynamic, or
            parity is above the tolerance of :mod:`export.parity`.
    """
    save_model(clean(_traced(model, task, samples[0])), out)
    return _parity(model, out, [*samples, *_reshaped(samples[0], left=is_causal(model.model))])


def _traced(model: Forward, task: Task, sample: Arrays) -> ir.Model:
    example = _at_least_two(sample)
    dynamic = torch.export.Dim.DYNAMIC
    try:
        with torch.no_grad(), _quiet_exporter():
            program = torch.onnx.export(
                model,
                kwargs={name: torch.from_numpy(value) for name, value in example.items()},
                input_names=list(example),
                output_names=[output_name(task)],
                dynamic_shapes={
                    name: {0: dynamic, 1: dynamic} if value.ndim == 2 else {0: dynamic}
                    for name, value in example.items()
                },
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
        renamed[str(value.shape[0])] = "batch"
        if not isinstance(value.shape[1], int):
            renamed[str(value.shape[1])] = "sequence"
        value.shape = ir.Shape([renamed.get(str(d), d) for d in value.shape])
    for value in model.graph.outputs:
        assert value.shape is not None
        value.shape = ir.Shape([renamed.get(str(d), d) for d in value.shape])
    return model


def _at_least_two(sample: Arrays) -> dict[str, np.ndarray]:
    """Repeat a batch of one: torch would freeze an axis of length 1."""
    return {k: np.concatenate([v, v]) if len(v) == 1 else v for k, v in sample.items()}


def _reshaped(sample: Arrays, *, left: bool) -> list[dict[str, np.ndarray]]:
    """Return the sample in other batches and lengths, and with padding inside the batch.

    One sequence alone; half the length; one token; eight sequences of which every
    other is padded to a third, on the left as well if ``left``.
    """
    first = next(iter(sample.values()))
    if first.ndim != 2:
        return [_cut(sample, rows, None) for rows in (1, 3, 8)]
    length = first.shape[1]
    eight = _cut(sample, 8, length)
    shapes = [_cut(sample, 1, max(1, length // 2)), _cut(sample, 2, 1)]
    shapes.append(_padded(eight, length // 3, left=False))
    return [*shapes, _padded(eight, length // 3, left=True)] if left else shapes


def _cut(sample: Arrays, rows: int, length: int | None) -> dict[str, np.ndarray]:
    """Return ``rows`` sequences, repeated if there are fewer, cut to ``length`` tokens."""
    cut = {k: np.resize(v, (rows, *v.shape[1:])) for k, v in sample.items()}
    return {k: np.ascontiguousarray(v[:, :length]) if length else v for k, v in cut.items()}


def _padded(sample: Arrays, padding: int, *, left: bool) -> dict[str, np.ndarray]:
    """Return every other sequence with ``padding`` tokens masked out at one end."""
    mask = sample["attention_mask"].copy()
    if padding:
        mask[1::2, slice(None, padding) if left else slice(-padding, None)] = 0
    return {**sample, "attention_mask": mask}


def _parity(model: Forward, onnx_path: Path, batches: Sequence[Arrays]) -> Parity:
    pairs = []
    with open_reference(onnx_path) as run:
        for batch in batches:
            with torch.no_grad():
                given = {k: torch.from_numpy(v) for k, v in batch.items()}
                expected = model(**given).numpy()
            actual = next(iter(run(dict(batch)).values()))
            if expected.ndim == 3:
                seen = batch["attention_mask"].astype(bool)
                expected, actual = expected[seen], actual[seen]
            pairs.append((expected, actual))
    shapes = [list(next(iter(b.values())).shape) for b in batches]
    return compare_outputs(pairs, shapes, "torch")


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
