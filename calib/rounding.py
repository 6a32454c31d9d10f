"""Weights rounded one input channel after the other, each making up for the errors before it.

With H = E[xᵀx] of the activations that multiply W, the error of a rounded weight costs
tr(ΔWᵀ·H·ΔW). Input channels are rounded in falling order of H's diagonal; the error of each is
moved into the channels not yet rounded by the row of the Cholesky factor of H⁻¹ that belongs to it.
An output channel that this serves worse than rounding to nearest, which happens where activations
span few directions, is rounded to nearest.

References:
    Frantar et al. 2022, GPTQ, arXiv:2210.17323 (there for 3 and 4 bits, weights alone).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
import onnx_ir as ir

from calib.covariance import Tensors
from calib.kernels import round_in_turn
from calib.schemes import QuantParams
from calib.stats import TensorStats
from calib.weights import WeightScheme, quantize_weight
from export.matmuls import MatMul, weight_array

DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to it."""

_COLUMNS = 32
"""Output channels that a thread works on at a time; they stay in its cache."""

Rounded = Mapping[str, tuple[np.ndarray, QuantParams]]
"""Integers and scales by the name of the weight."""


def readers_of_weights(
    graph: ir.Graph, matmuls: Sequence[MatMul], stats: Mapping[str, TensorStats]
) -> dict[str, tuple[ir.Value, Tensors]]:
    """Return each (C, N) weight on the right of a matmul, and the activations it is multiplied by.

    Left out are weights of other shapes, and those whose activations have no fixed width.

    Args:
        graph: Of the matmuls.
        matmuls: Those to be quantized.
        stats: Of their activations.
    """
    nodes = {node.name: node for node in graph}
    found: dict[str, tuple[ir.Value, list[str]]] = {}
    for matmul in matmuls:
        operand = nodes[matmul.name].inputs[1]
        known = stats[matmul.activation].channel_minimum
        if matmul.weight_side != 1 or operand is None or known is None:
            continue
        if weight_array(operand).ndim == 2 and len(known) == weight_array(operand).shape[0]:
            found.setdefault(str(operand.name), (operand, []))[1].append(matmul.activation)
    return {n: (v, tuple(dict.fromkeys(names))) for n, (v, names) in found.items()}


def rounded_weights(
    readers: Mapping[str, tuple[ir.Value, Tensors]],
    matrices: Iterator[tuple[Tensors, np.ndarray]],
    how: WeightScheme,
) -> dict[str, tuple[np.ndarray, QuantParams]]:
    """Round weights against the second moments of their activations.

    Args:
        readers: As :func:`readers_of_weights` returns.
        matrices: H by activations, as :func:`calib.covariance.covariances` yields.
        how: Estimator, granularity and bits.
    """
    found = {}
    for tensors, matrix in matrices:
        moments = SecondMoments.of(matrix)
        for name, (value, activations) in readers.items():
            if activations == tensors:
                weight = weight_array(value)
                _, params = quantize_weight(weight, 1, how, name=name)
                found[name] = round_weight(weight, params, moments, how.scheme.levels), params
    return found


@dataclass(frozen=True, slots=True)
class SecondMoments:
    """H with its rows and columns in the order of rounding.

    Attributes:
        matrix: H, (C, C) float64.
        factor: U, upper, (C, C) float32, with UᵀU = (H + damping)⁻¹ but for each row, divided by
            its diagonal element.
        order: (C,), the input channels.
    """

    matrix: np.ndarray
    factor: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray) -> Self:
        """Factor H, (C, C) float64, positive semidefinite."""
        diagonal = np.diag(matrix)
        order = np.argsort(-diagonal, kind="stable")
        least = DAMPING * float(diagonal.mean()) or 1.0
        ordered = matrix[np.ix_(order, order)]
        # (PHP)⁻¹ = LLᵀ of the inverse; its upper factor is the transpose
        upper = np.linalg.cholesky(np.linalg.inv(ordered + least * np.eye(len(matrix)))).T
        return cls(ordered, (upper / np.diag(upper)[:, None]).astype(np.float32), order)

    def costs(self, off: np.ndarray) -> np.ndarray:
        """Return what errors of rounding, (C, N), cost each output channel, (N,) float64."""
        found: np.ndarray = (off * (self.matrix @ off)).sum(axis=0)
        return found


def round_weight(
    weight: np.ndarray, params: QuantParams, moments: SecondMoments, levels: int
) -> np.ndarray:
    """Return the integers of a weight.

    Args:
        weight: (C, N) float32.
        params: Scales, (N,) or ().
        moments: Of the activations that it is multiplied by.
        levels: Largest integer.

    Returns:
        (C, N), int8 up to 8 bits and int16 beyond.
    """
    scale = np.broadcast_to(params.scale, weight.shape[1:]).astype(np.float32)
    steps = (weight / scale)[moments.order].astype(np.float32)

    def rounded(start: int) -> np.ndarray:
        part = np.ascontiguousarray(steps[:, start : start + _COLUMNS])
        nearest = np.clip(np.rint(part), -levels, levels)
        chosen = round_in_turn(part.copy(), moments.factor, levels)
        better = moments.costs(chosen - part) < moments.costs(nearest - part)
        best: np.ndarray = np.where(better, chosen, nearest)
        return best

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        done = list(threads.map(rounded, range(0, weight.shape[1], _COLUMNS)))
    integers = np.empty_like(steps)
    integers[moments.order] = np.concatenate(done, axis=1)
    whole: np.ndarray = integers.astype(np.int8 if levels < 128 else np.int16)
    return whole
