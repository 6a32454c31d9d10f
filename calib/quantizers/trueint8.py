"""Our own quantizer: statistics, then float graphs of equal function, then Q/DQ.

Every rewrite of the float graph is proved equal on real data and calibrated anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calib.collector import channel_means, observe, operand_shapes, unpadded
from calib.covariance import Tensors, covariances
from calib.estimators import ESTIMATORS
from calib.grouping import Grouping, group_channels, read_saturated
from calib.placement import Placement
from calib.qdq import insert_qdq
from calib.quantization import DEFAULT_ESTIMATOR, Batch, Prepared, Request, Settings
from calib.quantizer import Peer, PeerRequest, check_estimator
from calib.ranges import DataEntry, Estimator, Ranges
from calib.readers import find_readers
from calib.rounding import Rounded, readers_of_weights, rounded_weights
from calib.schemes import params_of_range
from calib.smoothing import AUTO, Smoothing, correct_biases, smooth
from calib.smoothing_choice import BATCHES, choose_smoothing
from export.initializers import array_of
from export.matmuls import find_matmuls
from export.onnx_file import graph_sha256, load_clean, save_model
from export.parity import compare_outputs
from export.reference import open_reference
from trueint8 import __version__

TITLE = "TrueInt8"
OWN = "it takes ranges by minmax"


def quantize(request: Request, out: Path) -> Prepared:
    """Write the Q/DQ graph to ``out``, and those of other decisions beside it.

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


def _quantize_alone(asked: PeerRequest) -> None:
    """Do as a peer does: with the settings that are the default."""
    check_estimator(TITLE, OWN, ESTIMATORS.names(), asked.estimator)
    name = asked.estimator or DEFAULT_ESTIMATOR
    options = {"percentile": asked.percentile} if name == "percentile" else {}
    request = Request(
        name=asked.graph.name,
        graph=asked.graph,
        modules_named=False,
        batches=asked.batches,
        entry=DataEntry("given", "", sum(map(_count, asked.batches)), 0, 0, 0, len(asked.batches)),
        settings=Settings(Estimator(name, options), keep_float=tuple(asked.keep_float)),
        ranges=None,
        scratch=asked.scratch,
        progress=asked.progress,
        timed=lambda _: contextlib.nullcontext(),
    )
    quantize(request, asked.out)


def _count(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def prepare(request: Request) -> Prepared:
    """Calibrate the graph and rewrite it as the settings ask.

    Raises:
        As :func:`quantize`.
    """
    settings = request.settings
    if request.ranges is not None:
        graph = load_clean(request.graph)
        shapes = operand_shapes(graph, request.batches[0])
        common, special = request.place(graph), request.place_special(graph, shapes)
        digest = graph_sha256(request.graph)
        tensors = _tensors([common, *special.values()])
        ranges = request.ranges.restricted(tensors, settings.estimator, digest)
        prepared = Prepared(request.graph, request.graph, common, ranges, shapes, special=special)
    else:
        prepared = _calibrated(request, request.graph)
    if settings.smoothing is not None:
        prepared = _smoothed(request, prepared, settings.smoothing)
    if settings.grouping is not None:
        prepared = _grouped(request, prepared, settings.grouping)
    return prepared


def write_qdq(prepared: Prepared, request: Request, out: Path) -> None:
    """Write the Q/DQ graphs of a prepared one.

    Raises:
        CalibrationError: If a range is unusable.
    """
    settings, quantized = request.settings, prepared.placement.quantized
    covered = prepared.statistics.covered()
    params = {t: params_of_range(t, covered[t]) for t in _tensors(prepared.placements)}
    graph = load_clean(prepared.graph)
    shifts = settings.smoothing is not None and settings.smoothing.shifts
    rounded = None
    if settings.weights.rounding == "gptq":
        rounded = _rounded(prepared, request, centred=shifts)
    if shifts:
        read = {m.activation: params[m.activation] for m in quantized}
        means = channel_means(graph, read, request.batches, progress=request.progress)
        correct_biases(graph, quantized, means, settings.weights, rounded)
    files = {out: prepared.placement}
    files |= {prepared.file_of(name, out): p for name, p in prepared.special.items()}
    with request.progress.step("quantize weights"):
        for file, placement in files.items():
            whole = graph.clone()
            insert_qdq(whole, placement, params, settings.weights, rounded)
            save_model(whole, file)


def _rounded(prepared: Prepared, request: Request, *, centred: bool) -> Rounded:
    """Round weights against the second moments of what they multiply.

    Where biases are corrected afterwards, the mean costs nothing, and moments are central.
    """
    graph, stats = load_clean(prepared.observed), prepared.statistics.stats
    readers = readers_of_weights(graph.graph, prepared.placement.quantized, stats)
    matrices = covariances(
        graph,
        list(dict.fromkeys(tensors for _, tensors in readers.values())),
        stats,
        request.batches,
        centred=centred,
        progress=request.progress,
    )
    return rounded_weights(readers, matrices, request.settings.weights)


def _calibrated(request: Request, path: Path) -> Prepared:
    """Decide which matmuls of a graph get Q/DQ, and make a pass over it."""
    graph = load_clean(path)
    shapes = operand_shapes(graph, request.batches[0]) if request.special else {}
    return _observed(request, path, request.place(graph), request.place_special(graph, shapes))


def _observed(
    request: Request, path: Path, common: Placement, special: Mapping[str, Placement]
) -> Prepared:
    """Make a pass over a graph whose matmuls are decided upon."""
    placements = [common, *special.values()]
    seen = observe(
        load_clean(path),
        _tensors(placements),
        request.batches,
        progress=request.progress,
        token_axes={name: axis for p in placements for name, axis in p.token_axes.items()},
    )
    ranges = Ranges(graph_sha256(path), request.settings.estimator, [request.entry], seen.stats)
    return Prepared(path, path, common, ranges, seen.shapes, special=special)


def _tensors(placements: Sequence[Placement]) -> list[str]:
    return list(dict.fromkeys(name for p in placements for name in p.tensors))


def _smoothed(request: Request, before: Prepared, how: Smoothing) -> Prepared:
    """Write the smoothed float graph, prove it equal, and calibrate it."""
    path = request.scratch / "smoothed.onnx"
    with request.progress.step("smooth"):
        graph = load_clean(before.graph)
        chosen = _chosen(request, before, graph) if how.method == AUTO else how
        moved = smooth(graph, before.placement.quantized, before.statistics.stats, chosen)
        if not moved:
            return before
        _save_equal(graph, before.graph, path, request.batches[0])
    return replace(_calibrated(request, path), moved=moved)


def _grouped(request: Request, before: Prepared, how: Grouping) -> Prepared:
    """Write the float graph with its matmuls in parts, prove it equal, and calibrate it."""
    masked, path = request.scratch / "masked.onnx", request.scratch / "grouped.onnx"
    with request.progress.step("group channels"):
        graph = load_clean(before.graph)
        grouped = group_channels(graph, before.placement.quantized, before.statistics.stats, how)
        matmuls = find_matmuls(graph, modules_named=request.modules_named)
        common = before.placement.carried_to(matmuls, grouped.reasons)
        special = {
            name: placement.carried_to(matmuls, grouped.reasons)
            for name, placement in before.special.items()
        }
        _save_equal(graph, before.graph, masked, request.batches[0])
        read_saturated(graph)
        _save_equal(graph, before.graph, path, request.batches[0])
    made = _observed(request, masked, common, special)
    return replace(made, graph=path, moved=before.moved, grouped=grouped.moved)


def _chosen(request: Request, before: Prepared, graph: ir.Model) -> dict[str, Smoothing | None]:
    """Choose a smoothing for each activation whose channels' extremes are known."""
    stats, weights = before.statistics.stats, request.settings.weights
    readers: dict[Tensors, list[np.ndarray]] = {
        (str(r.value.name),): [array_of(n.inputs[1]) for n in r.nodes]
        for r in find_readers(graph.graph, before.placement.quantized)
        if stats[str(r.value.name)].channel_minimum is not None
    }
    matrices = covariances(
        graph,
        list(readers),
        stats,
        request.batches[:BATCHES],
        centred=True,
        progress=request.progress,
    )
    return {
        names[0]: choose_smoothing(stats[names[0]], matrix, readers[names], weights)
        for names, matrix in matrices
    }


def _save_equal(graph: ir.Model, before: Path, after: Path, batch: Batch) -> None:
    """Save a rewritten graph and run it beside the one before.

    What either gives at padded positions is nobody's result, and is not compared.

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
        found = run(batch)
    return {name: unpadded(values, batch.get("attention_mask")) for name, values in found.items()}


QUANTIZER = Peer(TITLE, tuple(ESTIMATORS.names()), OWN, lambda _: __version__, _quantize_alone)
