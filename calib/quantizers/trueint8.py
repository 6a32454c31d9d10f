"""Our own quantizer: statistics, then float graphs of equal function, then Q/DQ.

Every rewrite of the float graph is proved equal on real data and calibrated anew.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calib.collector import channel_means, observe, operand_shapes
from calib.grouping import Grouping, group_channels, read_saturated
from calib.placement import Placement
from calib.qdq import insert_qdq
from calib.quantization import Batch, Prepared, Request
from calib.ranges import Ranges
from calib.schemes import params_of_range
from calib.smoothing import Smoothing, correct_biases, smooth
from export.matmuls import find_matmuls
from export.onnx_file import graph_sha256, load_clean, save_model
from export.parity import compare_outputs
from export.reference import open_reference


def quantize(request: Request, out: Path) -> Prepared:
    """Write the Q/DQ graph.

    Raises:
        BuildError: If the graph has nothing to quantize.
        CalibrationError: If an activation is NaN or infinite, or the ranges are of another graph.
        ExportError: If a rewritten float graph computes something else.
    """
    with request.timed("calibrate"):
        prepared = prepare(request)
    with request.timed("quantize"):
        write_qdq(prepared, request, out)
    return prepared


def prepare(request: Request) -> Prepared:
    """Calibrate the graph and rewrite it as the settings ask.

    Raises:
        As :func:`quantize`.
    """
    settings, placement = request.settings, request.place(load_clean(request.graph))
    if request.ranges is not None:
        digest = graph_sha256(request.graph)
        ranges = request.ranges.restricted(placement.tensors, settings.estimator, digest)
        shapes = operand_shapes(request.graph, request.batches[0], scratch=request.scratch)
        prepared = Prepared(request.graph, placement, ranges, shapes)
    else:
        prepared = _calibrated(request, request.graph, placement)
    if settings.smoothing is not None:
        prepared = _smoothed(request, prepared, settings.smoothing)
    if settings.grouping is not None:
        prepared = _grouped(request, prepared, settings.grouping)
    return prepared


def write_qdq(prepared: Prepared, request: Request, out: Path) -> None:
    """Write the Q/DQ graph of a prepared one.

    Raises:
        CalibrationError: If a range is unusable.
    """
    settings, placement = request.settings, prepared.placement
    covered = prepared.ranges.covered()
    params = {name: params_of_range(name, covered[name]) for name in placement.tensors}
    graph = load_clean(prepared.graph)
    if settings.smoothing is not None and settings.smoothing.shifts:
        means = channel_means(
            prepared.graph,
            params,
            request.batches,
            scratch=request.scratch,
            progress=request.progress,
        )
        correct_biases(graph, placement.quantized, means, settings.weights)
    with request.progress.step("quantize weights"):
        insert_qdq(graph, placement, params, settings.weights)
        save_model(graph, out)


def _calibrated(request: Request, path: Path, placement: Placement) -> Prepared:
    """Make a pass over a graph."""
    seen = observe(
        path,
        placement.tensors,
        request.batches,
        scratch=request.scratch,
        progress=request.progress,
    )
    ranges = Ranges(graph_sha256(path), request.settings.estimator, [request.entry], seen.stats)
    return Prepared(path, placement, ranges, seen.shapes)


def _smoothed(request: Request, before: Prepared, how: Smoothing) -> Prepared:
    """Write the smoothed float graph, prove it equal, and calibrate it."""
    path = request.scratch / "smoothed.onnx"
    with request.progress.step("smooth"):
        graph = load_clean(before.graph)
        moved = smooth(graph, before.placement.quantized, before.ranges.stats, how)
        _save_equal(graph, before.graph, path, request.batches[0])
    return replace(_calibrated(request, path, request.place(load_clean(path))), moved=moved)


def _grouped(request: Request, before: Prepared, how: Grouping) -> Prepared:
    """Write the float graph with its matmuls in parts, prove it equal, and calibrate it."""
    masked, path = request.scratch / "masked.onnx", request.scratch / "grouped.onnx"
    with request.progress.step("group channels"):
        graph = load_clean(before.graph)
        grouped = group_channels(graph, before.placement.quantized, before.ranges.stats, how)
        matmuls = find_matmuls(graph, modules_named=request.modules_named)
        placement = before.placement.carried_to(matmuls, grouped.reasons)
        _save_equal(graph, before.graph, masked, request.batches[0])
        read_saturated(graph)
        _save_equal(graph, before.graph, path, request.batches[0])
    made = _calibrated(request, masked, placement)
    return replace(made, graph=path, moved=before.moved, grouped=grouped.moved)


def _save_equal(graph: ir.Model, before: Path, after: Path, batch: Batch) -> None:
    """Save a rewritten graph and run it beside the one before.

    Raises:
        ExportError: If their outputs differ by more than parity allows.
    """
    save_model(graph, after)
    expected, actual = _outputs(before, batch), _outputs(after, batch)
    compare_outputs(
        [(expected[name], actual[name]) for name in expected],
        [list(a.shape) for a in batch.values()][:1],
        "the graph before",
    )


def _outputs(path: Path, batch: Batch) -> dict[str, np.ndarray]:
    with open_reference(path) as run:
        return run(batch)
