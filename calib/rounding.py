"""Weights rounded one input channel after the other, each making up for the errors before it.

With H = E[xᵀx] of the activations that multiply W, the error of a rounded weight costs
tr(ΔWᵀ·H·ΔW). Input channels are rounded in falling order of H's diagonal; the error of each is
moved into the channels not yet rounded by the row of the Cholesky factor of H⁻¹ that belongs to it.

References:
    Frantar et al. 2022, GPTQ, arXiv:2210.17323 (there for 3 and 4 bits, weights alone).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

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
        factor, order = inverse_factor(matrix)
        for name, (value, activations) in readers.items():
            if activations == tensors:
                weight = weight_array(value)
                _, params = quantize_weight(weight, 1, how, name=name)
                found[name] = round_weight(weight, params, factor, order, how.scheme.levels), params
    return found


def inverse_factor(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return U, upper, with UᵀU = (H + damping)⁻¹ in the order of rounding; and that order.

    Args:
        matrix: H, (C, C) float64, positive semidefinite.

    Returns:
        U (C, C) float32, each row divided by its diagonal element; the order (C,).
    """
    diagonal = np.diag(matrix)
    order = np.argsort(-diagonal, kind="stable")
    least = DAMPING * float(diagonal.mean()) or 1.0
    damped = matrix[np.ix_(order, order)] + least * np.eye(len(matrix))
    # (PHP)⁻¹ = LLᵀ of the inverse; its upper factor is the transpose
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    return (upper / np.diag(upper)[:, None]).astype(np.float32), order


def round_weight(
    weight: np.ndarray, params: QuantParams, factor: np.ndarray, order: np.ndarray, levels: int
) -> np.ndarray:
    """Return the integers of a weight.

    Args:
        weight: (C, N) float32.
        params: Scales, (N,) or ().
        factor: As :func:`inverse_factor` returns.
        order: The same.
        levels: Largest integer.

    Returns:
        (C, N), int8 up to 8 bits and int16 beyond.
    """
    scale = np.broadcast_to(params.scale, weight.shape[1:]).astype(np.float32)
    steps = np.ascontiguousarray((weight / scale)[order], np.float32)
    starts = range(0, weight.shape[1], _COLUMNS)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        parts = [np.ascontiguousarray(steps[:, s : s + _COLUMNS]) for s in starts]
        done = list(threads.map(lambda part: round_in_turn(part, factor, levels), parts))
    integers = np.empty_like(steps)
    integers[order] = np.concatenate(done, axis=1)
    return integers.astype(np.int8 if levels < 128 else np.int16)
