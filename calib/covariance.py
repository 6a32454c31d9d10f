"""Second moments of activations over the calibration data, for rounding weights against them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from calib.collector import Batch, tokens
from calib.stats import TensorStats
from trueint8.progress import Progress

BYTES_AT_ONCE = 1 << 30
"""Of matrices held at a time; what does not fit is left to a further pass over the data."""

Tensors = tuple[str, ...]


def covariances(
    model: ir.Model,
    wanted: Sequence[Tensors],
    stats: Mapping[str, TensorStats],
    batches: Sequence[Batch],
    *,
    centred: bool,
    progress: Progress,
) -> Iterator[tuple[Tensors, np.ndarray]]:
    """Run all batches and yield Σ E[xᵀx] over the tokens of each group of activations.

    Padded positions do not count. Only :data:`BYTES_AT_ONCE` of matrices are in memory at a time.

    Args:
        model: The float graph.
        wanted: Groups of activations of equal width whose matrices are added up.
        stats: Of every activation, with extremes per channel.
        batches: Arrays named as the graph's inputs.
        centred: Take each activation's mean off first, E[(x − μ)ᵀ(x − μ)].
        progress: Shows one unit per batch.

    Yields:
        The group, and (C, C) float64.
    """
    for part in _parts(wanted, stats):
        owner = {name: group for group in part for name in group}
        products: dict[Tensors, np.ndarray] = {}
        sums: dict[str, np.ndarray] = {}
        counts = dict.fromkeys(owner, 0)
        with progress.step("measure covariance", total=len(batches)) as advance:
            for name, x in tokens(model, list(owner), batches, advance):
                group, product = owner[name], (x.T @ x).astype(np.float64)
                products[group] = products[group] + product if group in products else product
                sums[name] = sums.get(name, 0.0) + x.sum(axis=0, dtype=np.float64)
                counts[name] += len(x)
        for group in part:
            matrix = products.pop(group)
            if centred:
                for name in group:
                    matrix -= np.outer(sums[name], sums[name]) / counts[name]
            yield group, matrix / sum(counts[name] for name in group)


def _parts(wanted: Sequence[Tensors], stats: Mapping[str, TensorStats]) -> Iterator[list[Tensors]]:
    """Split the groups so that the matrices of each part fit in memory together."""
    part: list[Tensors] = []
    held = 0
    for group in wanted:
        low = stats[group[0]].channel_minimum
        needed = 8 * len(low) ** 2 if low is not None else 0
        if part and held + needed > BYTES_AT_ONCE:
            yield part
            part, held = [], 0
        part.append(group)
        held += needed
    if part:
        yield part
