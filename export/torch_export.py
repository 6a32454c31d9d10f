"""A checkpoint's or a user's module to ONNX, with parity against torch on real samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.onnx_file import save_model
from export.parity import PARITY_TOLERANCE, Parity, compare_outputs
from export.passes import clean
from export.reference import open_reference
from export.tracing import DEFAULT_OPSET, Traced, trace

Arrays = Mapping[str, np.ndarray]
HALF_TOLERANCE = 2e-2
"""As :data:`export.parity.PARITY_TOLERANCE`, for a graph in FP16 against torch in FP32."""


def export_module(
    model: Any,
    samples: Sequence[Arrays],
    out: Path,
    *,
    opset: int = DEFAULT_OPSET,
    half: bool = False,
) -> Parity:
    """Export to ``out`` with dynamic batch and sequence, and check it against torch.

    Args:
        model: :class:`export.checkpoint.Forward` or :class:`export.user_module.UserModule`,
            in FP32; left in FP16 if ``half``.
        samples: Real batches, arrays named as the inputs; the first also serves as the
            tracing example.
        out: The ``.onnx`` file to write.
        opset: Of the graph.
        half: Write a graph whose weights and activations are FP16.

    Raises:
        ExportError: If torch cannot trace the model with both axes dynamic, or
            parity is above the tolerance of :mod:`export.parity`.
    """
    batches = [*samples, *reshaped(samples[0], left=model.left)]
    expected = [run_torch(model, batch) for batch in batches]
    if half:
        model, batches = model.half(), [_halved(batch) for batch in batches]
    example = {k: torch.from_numpy(v) for k, v in _at_least_two(batches[0]).items()}
    axes = {name: _axes(value) for name, value in example.items()}
    traced = Traced(model, example, list(example), [model.output], axes)
    save_model(clean(trace(traced, opset=opset)), out)
    tolerance = HALF_TOLERANCE if half else PARITY_TOLERANCE
    return _parity(out, batches, expected, tolerance)


def _axes(value: torch.Tensor) -> dict[int, str]:
    """Return the dynamic axes: the batch, and the sequence of token ids (B, T)."""
    tokens = value.dim() == 2 and not value.is_floating_point()
    return {0: "batch", 1: "sequence"} if tokens else {0: "batch"}


def _halved(batch: Arrays) -> dict[str, np.ndarray]:
    return {k: v.astype(np.float16) if v.dtype.kind == "f" else v for k, v in batch.items()}


def run_torch(model: Any, batch: Arrays) -> np.ndarray:
    """Run a module of :func:`export_module` on a batch."""
    with torch.no_grad():
        output: np.ndarray = model(**{k: torch.from_numpy(v) for k, v in batch.items()}).numpy()
    return output


def _at_least_two(sample: Arrays) -> dict[str, np.ndarray]:
    """Repeat a batch of one: torch would freeze an axis of length 1."""
    return {k: np.concatenate([v, v]) if len(v) == 1 else v for k, v in sample.items()}


def reshaped(sample: Arrays, *, left: bool) -> list[dict[str, np.ndarray]]:
    """Return the sample in other batches and lengths, and with padding inside the batch.

    One sequence alone; half the length; one token; eight sequences of which every
    other is padded to a third, on the left as well if ``left``.
    """
    if "attention_mask" not in sample:
        return [_cut(sample, rows, None) for rows in (1, 3, 8)]
    length = sample["attention_mask"].shape[1]
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


def _parity(
    onnx_path: Path, batches: Sequence[Arrays], expected: Sequence[np.ndarray], tolerance: float
) -> Parity:
    pairs: list[tuple[Any, Any]] = []
    with open_reference(onnx_path) as run:
        for batch, wanted in zip(batches, expected, strict=True):
            actual = next(iter(run(batch).values())).astype(np.float32)
            if wanted.ndim == 3 and "attention_mask" in batch:
                seen = batch["attention_mask"].astype(bool)
                wanted, actual = wanted[seen], actual[seen]
            pairs.append((wanted, actual))
    shapes = [list(next(iter(b.values())).shape) for b in batches]
    return compare_outputs(pairs, shapes, "torch", tolerance=tolerance)
