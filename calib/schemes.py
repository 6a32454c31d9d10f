"""Bits and symmetry to scales, and values to integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trueint8.errors import CalibrationError

LARGEST = 127
"""Largest INT8 magnitude used; scale = amax / 127."""


@dataclass(frozen=True, slots=True)
class QuantParams:
    """Symmetric INT8: x ≈ scale · q with q in [-128, 127] and zero point 0.

    ``scale`` is float32, () for per-tensor and (N,) for per-channel.
    """

    scale: np.ndarray


def activation_params(tensor: str, amax: float) -> QuantParams:
    """Return the per-tensor scale for ``[-amax, amax]``; an all-zero tensor gets scale 1.

    Raises:
        CalibrationError: If ``amax`` is not a finite number >= 0.
    """
    if not (np.isfinite(amax) and amax >= 0):
        raise CalibrationError(
            f"the range of {tensor!r} is {amax}, which is no usable threshold",
            fix="calibrate on more or other data",
        )
    return QuantParams(scale=_scale(np.float64(amax)))


def quantize_weight(
    weight: np.ndarray, axis: int, *, name: str = "weight"
) -> tuple[np.ndarray, QuantParams]:
    """Quantize a weight per channel with min-max ranges.

    Args:
        weight: float32, at least two axes.
        axis: The output-channel axis, which keeps its own scale per index.
        name: For the message.

    Returns:
        int8 of the same shape, and scales (weight.shape[axis],).

    Raises:
        CalibrationError: If a value is NaN or infinite.
    """
    finite = np.isfinite(weight)
    if not finite.all():
        raise CalibrationError(
            f"{name!r} holds {np.count_nonzero(~finite)} NaN or infinite values",
            fix="pass a checkpoint whose weights are finite",
        )
    others = tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    params = QuantParams(scale=_scale(np.abs(weight).max(axis=others).astype(np.float64)))
    shape = [1] * weight.ndim
    shape[axis] = -1
    steps = weight / params.scale.reshape(shape)
    return np.clip(np.rint(steps), -LARGEST, LARGEST).astype(np.int8), params


def _scale(amax: np.ndarray | np.float64) -> np.ndarray:
    scale = np.asarray(amax / LARGEST, dtype=np.float32)
    floor = np.finfo(np.float32).tiny
    return np.where(scale >= floor, scale, np.float32(1.0)).astype(np.float32)
