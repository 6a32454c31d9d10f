"""Two executions of the same model, compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from trueint8.errors import ExportError

PARITY_TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest absolute output of the original."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Largest |graph − original|, relative to the largest |original|; ``shapes`` of the inputs."""

    relative_error: float
    tolerance: float
    shapes: list[list[int]]


def compare_outputs(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    shapes: list[list[int]],
    original: str,
    *,
    tolerance: float = PARITY_TOLERANCE,
) -> Parity:
    """Compare arrays pairwise and refuse a graph that computes something else.

    Args:
        pairs: (original's output, graph's output). Where the original is NaN or
            infinite, the graph may be too; that is for calibration to report.
        shapes: Shapes of the inputs that were run.
        original: What the graph is compared with, for the message.
        tolerance: Largest difference allowed, relative to the largest output.

    Raises:
        ExportError: If the difference is above ``tolerance``, or the shapes differ.
    """
    largest = error = 0.0
    for expected, actual in pairs:
        if expected.shape != actual.shape:
            error = np.inf
            continue
        finite = np.isfinite(expected)
        if not finite.any():
            continue
        difference = np.abs(actual[finite].astype(np.float64) - expected[finite])
        largest = max(largest, float(np.abs(expected[finite]).max()))
        error = max(error, float(np.nan_to_num(difference, nan=np.inf).max()))
    relative = error / largest if largest else error
    if relative > tolerance:
        raise ExportError(
            f"the ONNX graph differs from {original} by {relative:.2e} of the largest output; "
            f"the tolerance is {tolerance:.0e}",
            fix="report this model; nothing was built from the wrong graph",
        )
    return Parity(relative, tolerance, shapes)
