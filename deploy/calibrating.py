"""The calibration alone: a model and data to ``ranges.safetensors``, resumable and mergeable."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from calib.collector import observe
from calib.placement import Placement, place_qdq
from calib.ranges import DataEntry, Ranges, entry_from, ranges_bytes, read_ranges
from calib.stats import TensorStats
from deploy import bundle as layout
from deploy.float_graph import write_float_graph
from deploy.planning import CalibrationPlan
from export.attentions import find_attentions
from export.matmuls import find_matmuls
from export.onnx_file import graph_sha256, load_clean
from trueint8.artifacts import write_atomically
from trueint8.errors import BuildError, ConfigError, IntegrityError
from trueint8.progress import Progress


def calibrate(plan: CalibrationPlan, out: Path, *, force: bool, progress: Progress) -> Ranges:
    """Run the data through the model once and write what was learnt.

    What is known so far is kept beside ``out`` now and then; the same call goes on from there.

    Args:
        plan: Model, data and estimator.
        out: The file to write.
        force: Replace what is at ``out``.
        progress: Where progress is shown.

    Raises:
        ConfigError: If ``out`` is taken.
        BuildError: If the graph has nothing to calibrate.
        CalibrationError: If an activation is NaN or infinite.
    """
    _refuse_taken(out, force=force)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, samples, _ = write_float_graph(folder, plan, progress)
        for warning in plan.warnings(samples):
            progress.say(f"warning: {warning}")
        path = folder / layout.FLOAT_GRAPH
        graph = load_clean(path)
        placement = _everything(graph, named=plan.source.kind == "checkpoint")
        tensors = list(
            dict.fromkeys([*placement.tensors, *(a.outputs[0] for a in placement.attentions)])
        )
        if not tensors:
            raise BuildError(
                f"{plan.source.name} has no matmul with weights to quantize",
                fix="check that the graph holds MatMul or Gemm nodes with constant weights",
            )
        digest = graph_sha256(path)
        partial = out.with_name(f".{out.name}.partial")

        def known(stats: Mapping[str, TensorStats], done: int) -> Ranges:
            return Ranges(digest, plan.estimator, [entry_from(samples, plan.amount, done)], stats)

        whole = known({}, len(samples.batches))
        start = _resumable(partial, whole, tensors)
        if start is not None:
            progress.say(f"going on after batch {start.data[0].batches} of {len(samples.batches)}")
        seen = observe(
            graph,
            tensors,
            samples.batches,
            progress=progress,
            start=start.stats if start else None,
            done=start.data[0].batches if start else 0,
            token_axes=placement.token_axes,
            keep=lambda stats, done: write_atomically(partial, ranges_bytes(known(stats, done))),
        )
    ranges = replace(whole, stats=seen.stats)
    write_atomically(out, ranges_bytes(ranges))
    partial.unlink(missing_ok=True)
    return ranges


def _everything(graph: ir.Model, *, named: bool) -> Placement:
    """Return a placement of all that any build could quantize."""
    return place_qdq(
        find_matmuls(graph, modules_named=named),
        quantize_head=True,
        attentions={a: a.obstacle for a in find_attentions(graph)},
    )


def merge_files(paths: Sequence[Path], out: Path, *, force: bool) -> Ranges:
    """Join what several runs over parts of the data wrote.

    Raises:
        ConfigError: If there are fewer than two files, or ``out`` is taken.
        IntegrityError: If a file is not whole.
        CalibrationError: If they are of two graphs, or hold the same data.
    """
    if len(paths) < 2:
        raise ConfigError("nothing to merge", fix="deploy calibrate --merge FILE FILE... -o RANGES")
    _refuse_taken(out, force=force)
    ranges = read_ranges(paths[0])
    for path in paths[1:]:
        ranges = ranges.merge(read_ranges(path))
    write_atomically(out, ranges_bytes(ranges))
    return ranges


def _refuse_taken(out: Path, *, force: bool) -> None:
    if out.is_dir() or (out.exists() and not force):
        raise ConfigError(f"{out} exists", fix="pass --force to replace it, or another -o")


def _resumable(partial: Path, whole: Ranges, tensors: Sequence[str]) -> Ranges | None:
    """Return what an interrupted run of the same request kept, if anything."""
    if not partial.is_file():
        return None
    try:
        kept = read_ranges(partial)
    except IntegrityError:
        return None
    same = kept.graph == whole.graph and set(kept.stats) == set(tensors)
    return kept if same and _asked(kept.data) == _asked(whole.data) else None


def _asked(data: Sequence[DataEntry]) -> list[DataEntry]:
    """Return entries without how far they got."""
    return [replace(d, samples=0, batches=0) for d in data]
