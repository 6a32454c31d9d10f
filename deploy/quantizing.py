"""Float graph to Q/DQ graph inside an unfinished bundle: calibrate, smooth, quantize."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from calib.collector import channel_means, observe, operand_shapes
from calib.data import Samples
from calib.placement import Placement, place_qdq
from calib.qdq import insert_qdq
from calib.ranges import Ranges, entry_from, ranges_bytes, read_ranges
from calib.schemes import params_of_range
from calib.smoothing import correct_biases, smooth
from deploy import bundle as layout
from deploy.planning import BuildPlan
from export.matmuls import find_matmuls
from export.onnx_file import graph_sha256, load_clean, save_model
from export.parity import compare_outputs
from export.reference import open_reference
from trueint8.artifacts import storage_errors
from trueint8.errors import BuildError
from trueint8.progress import Progress

_SMOOTHED = "smoothed.onnx"


def place(plan: BuildPlan, graph: ir.Model) -> Placement:
    """Decide which matmuls of a graph get Q/DQ.

    Raises:
        BuildError: If none does.
    """
    placement = place_qdq(
        find_matmuls(graph, modules_named=plan.source.kind == "checkpoint"),
        quantize_head=plan.quantize_head,
        keep_float=plan.keep_float,
        int8_only=plan.int8_only,
    )
    if not placement.quantized:
        raise BuildError(
            f"{plan.source.name} has no matmul with weights to quantize",
            fix="check that the graph holds MatMul or Gemm nodes with constant weights",
        )
    return placement


def calibrated(
    folder: Path, plan: BuildPlan, placement: Placement, samples: Samples, progress: Progress
) -> tuple[Ranges, dict[str, tuple[int, ...]]]:
    """Return ranges of the placed tensors, from the plan's file or by a pass over the data.

    With them come the shapes of every matmul's operands for one sequence.
    """
    path = folder / layout.FLOAT_GRAPH
    digest, graph = graph_sha256(path), load_clean(path)
    if plan.ranges is not None:
        given = read_ranges(plan.ranges).restricted(placement.tensors, plan.estimator, digest)
        return given, operand_shapes(graph, samples.batches[0])
    seen = observe(graph, placement.tensors, samples.batches, progress=progress)
    entry = entry_from(samples, plan.amount, len(samples.batches))
    return Ranges(digest, plan.estimator, [entry], seen.stats), seen.shapes


def quantize(
    folder: Path,
    plan: BuildPlan,
    placement: Placement,
    ranges: Ranges,
    samples: Samples,
    progress: Progress,
) -> dict[str, str]:
    """Write the Q/DQ graph and the ranges it was made with.

    Returns:
        Where the factors of each smoothed activation went.
    """
    source = folder / layout.FLOAT_GRAPH
    moved: dict[str, str] = {}
    if plan.smoothing is not None:
        source = folder / _SMOOTHED
        placement, ranges, moved = _smoothed(folder, plan, placement, ranges, samples, progress)
    covered = ranges.covered()
    params = {name: params_of_range(name, covered[name]) for name in placement.tensors}
    graph = load_clean(source)
    if plan.smoothing is not None and plan.smoothing.shifts:
        means = channel_means(graph, params, samples.batches, progress=progress)
        correct_biases(graph, placement.quantized, means, plan.weights)
    with progress.step("quantize weights"):
        insert_qdq(graph, placement, params, plan.weights)
        save_model(graph, folder / layout.INT8_GRAPH)
    with storage_errors(folder):
        (folder / layout.RANGES).write_bytes(ranges_bytes(ranges))
    if plan.smoothing is not None:
        source.unlink()
        source.with_name(f"{source.name}.data").unlink(missing_ok=True)
    return moved


def _smoothed(
    folder: Path,
    plan: BuildPlan,
    placement: Placement,
    ranges: Ranges,
    samples: Samples,
    progress: Progress,
) -> tuple[Placement, Ranges, dict[str, str]]:
    """Write the smoothed float graph, prove it equal, and calibrate it."""
    assert plan.smoothing is not None
    path = folder / _SMOOTHED
    with progress.step("smooth"):
        graph = load_clean(folder / layout.FLOAT_GRAPH)
        moved = smooth(graph, placement.quantized, ranges.stats, plan.smoothing)
        save_model(graph, path)
        _prove_equal(folder / layout.FLOAT_GRAPH, path, samples)
    graph = load_clean(path)
    again = place(plan, graph)
    seen = observe(graph, again.tensors, samples.batches, progress=progress)
    entry = entry_from(samples, plan.amount, len(samples.batches))
    found = replace(ranges, graph=graph_sha256(path), data=[entry], stats=seen.stats)
    return again, found, moved


def _prove_equal(before: Path, after: Path, samples: Samples) -> None:
    """Run both graphs on one batch.

    Raises:
        ExportError: If their outputs differ by more than parity allows.
    """
    batch = samples.batches[0]
    with open_reference(before) as run:
        expected = run(batch)
    with open_reference(after) as run:
        actual = run(batch)
    compare_outputs(
        [(expected[name], actual[name]) for name in expected],
        [list(a.shape) for a in batch.values()][:1],
        "the graph before smoothing",
    )
