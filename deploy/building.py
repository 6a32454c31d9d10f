"""The build: checkpoint or ONNX file to a sealed bundle, step by step."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calib.data import Samples, check_tokens
from calib.inputs import GraphInput
from calib.quantization import Prepared
from calib.quantization import Request as Quantization
from calib.ranges import DataEntry, entry_from, ranges_bytes, read_ranges
from deploy import bundle as layout
from deploy.bundle import Bundle, open_bundle, seal
from deploy.checkpoint_files import embed_checkpoint
from deploy.commands.build import OURS
from deploy.compiling import Steps, build_engines, golden_graphs
from deploy.engine_graphs import special_rules
from deploy.exporting import copy_tokenizer
from deploy.float_graph import write_float_graph
from deploy.golden import Rests, draw_inputs, golden_count, write_golden
from deploy.hardware import hardware, package_versions
from deploy.manifest import (
    CalibrationEntry,
    InputEntry,
    Manifest,
    MatMulEntry,
    ModelEntry,
    SearchEntry,
)
from deploy.planning import BuildPlan
from deploy.quantizing import quantize
from deploy.search.candidates import Quantized
from deploy.search.planning import SearchPlan
from deploy.search.searching import Subject, search_placement, with_kept
from deploy.sessions import Shapes
from deploy.shapes import engine_shapes, fitting, longest_sequence
from export.matmuls import macs_from_shapes, vocabulary_size
from export.onnx_file import load_clean, save_model
from export.other_operators import counted_operators, operator_macs, uncounted_operators
from trueint8.artifacts import staged_folder, storage_errors
from trueint8.errors import ConfigError, IntegrityError
from trueint8.progress import Progress


def build_bundle(plan: BuildPlan, progress: Progress) -> tuple[Bundle, bool]:
    """Carry out a plan.

    Returns:
        The bundle at ``plan.out`` and whether it was built now (False: it was up to date).

    Raises:
        ConfigError: If ``plan.out`` holds anything but this very request and
            may not be replaced.
    """
    existing = _existing(plan)
    if existing is not None:
        return existing, False
    try:
        with staged_folder(plan.out, replace=plan.force) as folder:
            sealed = _build_into(folder, plan, progress)
    except ConfigError:
        made = _made_meanwhile(plan)
        if made is None:
            raise
        return made, False
    return Bundle(plan.out, sealed.manifest, sealed.sha256), True


def _existing(plan: BuildPlan) -> Bundle | None:
    if not (plan.out.exists() or plan.out.is_symlink()) or plan.force:
        return None
    fix = "pass --force to replace it, or another -o"
    if not (plan.out / layout.MANIFEST).is_file():
        raise ConfigError(f"{plan.out} exists and is not a bundle", fix=fix)
    found = open_bundle(plan.out)
    if found.manifest.request != plan.request():
        old, new = found.manifest.request, plan.request()
        changed = [k for k in new if old.get(k) != new[k]]
        raise ConfigError(
            f"{plan.out} holds another build (other {', '.join(changed) or 'version'})", fix=fix
        )
    return found


def _made_meanwhile(plan: BuildPlan) -> Bundle | None:
    """Return what another process built of the very same request in the meantime, if it did."""
    try:
        return _existing(plan)
    except (ConfigError, IntegrityError):
        return None


def _build_into(folder: Path, plan: BuildPlan, progress: Progress) -> Bundle:
    steps = Steps()
    for name, why in plan.left_out.items():
        progress.say(f"left out {name}: {why}")
    with steps.timed("export"):
        inputs, samples, parity = write_float_graph(folder, plan, progress)
    warnings = [] if plan.ranges else plan.warnings(samples)
    for warning in warnings:
        progress.say(f"warning: {warning}")
    graph = load_clean(folder / layout.FLOAT_GRAPH)
    limit = plan.source.max_positions
    suggested = engine_shapes(inputs, samples.batches[0], limit)
    shapes = plan.shapes.applied(suggested, inputs, limit)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        request = _quantization(folder, plan, samples, shapes, Path(scratch), steps, progress)
        found = None
        if plan.search is None:
            prepared = quantize(plan, request, folder / layout.INT8_GRAPH)
        else:
            prepared = quantize(plan, request, Path(scratch) / layout.INT8_GRAPH)
            with steps.timed("search"):
                prepared, found = _search(folder, plan, plan.search, inputs, prepared, request)
        if prepared.graph != request.graph:
            save_model(load_clean(prepared.graph), folder / layout.SMOOTHED_GRAPH)
        entries = _matmul_entries(prepared)
    with steps.timed("golden"):
        graphs = golden_graphs(plan, prepared, folder)
        golden = _golden(folder, plan, graph, inputs, samples, shapes, graphs, progress)
    with storage_errors(folder):
        if prepared.ranges is not None:
            (folder / layout.RANGES).write_bytes(ranges_bytes(prepared.ranges))
    if plan.embed_checkpoint:
        embed_checkpoint(plan.source, folder)
    engines = build_engines(folder, plan, shapes, prepared, samples, steps, progress)
    if plan.source.tokenizer is not None:
        (folder / layout.TOKENIZER).mkdir()
        copy_tokenizer(plan.source, folder / layout.TOKENIZER)
    manifest = Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=plan.command,
        request=plan.request(),
        model=_model_entry(plan),
        inputs=[InputEntry(name=i.name, dtype=i.dtype.name, shape=list(i.shape)) for i in inputs],
        shapes={name: [list(shape) for shape in of] for name, of in shapes.items()},
        parity=parity,
        calibration=_calibration_entry(plan, samples, _data(prepared, request)),
        matmuls=entries,
        smoothed=dict(prepared.moved),
        search=found,
        grouped=dict(prepared.grouped),
        uncounted=uncounted_operators(graph),
        warnings=warnings,
        engines=engines,
        golden=golden,
        seed=plan.seed,
        versions=package_versions(),
        hardware=hardware(),
        steps_s=steps.seconds,
        files={},
    )
    with progress.step("hash all files"):
        return seal(folder, manifest)


def _quantization(
    folder: Path,
    plan: BuildPlan,
    samples: Samples,
    shapes: Shapes,
    scratch: Path,
    steps: Steps,
    progress: Progress,
) -> Quantization:
    return Quantization(
        name=plan.source.name,
        graph=folder / layout.FLOAT_GRAPH,
        modules_named=plan.source.kind == "checkpoint",
        batches=samples.batches,
        entry=entry_from(samples, plan.amount, len(samples.batches)),
        settings=plan.settings,
        ranges=read_ranges(plan.ranges) if plan.ranges else None,
        scratch=scratch,
        progress=progress,
        timed=steps.timed,
        special=special_rules(plan.engines),
        longest=longest_sequence(shapes),
    )


def _search(
    folder: Path,
    plan: BuildPlan,
    search: SearchPlan,
    inputs: list[GraphInput],
    prepared: Prepared,
    request: Quantization,
) -> tuple[Prepared, SearchEntry]:
    """Choose what stays in float, and write the Q/DQ graph of the others."""
    macs = {m.name: m.macs for m in _matmul_entries(prepared) if not m.reason}
    subject = Subject(
        graphs=Quantized(prepared.graph, request.scratch / layout.INT8_GRAPH, macs),
        model=_model_entry(plan),
        inputs=inputs,
        tokenizer=plan.source.tokenizer,
        amount=plan.amount,
    )
    found = search_placement(subject, search, request.scratch, request.progress)
    kept, drop = found.kept, search.target_drop
    whole, out = subject.graphs.int8_graph, folder / layout.INT8_GRAPH
    for special in {None, *prepared.special}:
        source = prepared.file_of(special, whole) if special else whole
        target = prepared.file_of(special, out) if special else out
        replace(subject.graphs, int8_graph=source).write(kept, target)
    placed = with_kept(prepared.placement, kept, drop)
    others = {name: with_kept(p, kept, drop) for name, p in prepared.special.items()}
    return replace(prepared, placement=placed, special=others), found


def _matmul_entries(prepared: Prepared) -> list[MatMulEntry]:
    """Return every matmul with its decision, and every Conv and Gemm, which are not quantized."""
    graph, placement = load_clean(prepared.graph), prepared.placement
    macs = macs_from_shapes(graph, prepared.shapes)
    matmuls = [
        MatMulEntry(
            name=s.matmul.name,
            weighted=s.matmul.weight is not None,
            macs=macs[s.matmul.name],
            returns=s.matmul.returns,
            reason=s.reason,
        )
        for s in placement.sites
    ]
    others = [
        MatMulEntry(
            name=str(node.name),
            weighted=True,
            macs=operator_macs(node, prepared.shapes),
            returns="",
            reason=f"{node.op_type} is not quantized by this version",
        )
        for node in counted_operators(graph)
    ]
    return matmuls + others


def _golden(
    folder: Path,
    plan: BuildPlan,
    graph: ir.Model,
    inputs: list[GraphInput],
    samples: Samples,
    shapes: Shapes,
    graphs: Rests,
    progress: Progress,
) -> str:
    like = fitting(samples.batches[0], shapes)
    if plan.golden is not None:
        given = plan.load_golden(inputs, golden_count(graph))
        check_tokens(given, vocabulary_size(graph, "input_ids"))
        arrays, origin = given.batches[0], f"data: {plan.golden.name}"
    elif plan.golden_from_calib:
        arrays, origin = like, "calibration data"
    else:
        arrays, origin = draw_inputs(graph, inputs, like, plan.seed), f"drawn, seed {plan.seed}"
    with progress.step("golden outputs"):
        write_golden(folder / layout.GOLDEN, folder / layout.FLOAT_GRAPH, graphs, arrays)
    return origin


def _model_entry(plan: BuildPlan) -> ModelEntry:
    labels = (plan.source.config or {}).get("label2id")
    return ModelEntry(
        name=plan.source.name,
        kind=plan.source.kind,
        task=plan.source.task,
        attention=plan.source.attention,
        sha256=plan.source_sha256,
        label_ids={str(k): int(v) for k, v in labels.items()} if labels else None,
        max_positions=plan.source.max_positions,
    )


def _data(prepared: Prepared, request: Quantization) -> list[DataEntry]:
    return prepared.ranges.data if prepared.ranges is not None else [request.entry]


def _calibration_entry(
    plan: BuildPlan, samples: Samples, data: list[DataEntry]
) -> CalibrationEntry:
    first, request = data[0], plan.request()
    known = all(d.sha256 == samples.sha256 for d in data)  # ranges may be of other data
    return CalibrationEntry(
        quantizer=plan.quantizer.name if plan.quantizer else OURS,
        estimator=request["calib"] or "its own",
        percentile=request["percentile"] if request["calib"] == "percentile" else None,
        data=", ".join(dict.fromkeys(d.name for d in data)),
        data_sha256=", ".join(dict.fromkeys(d.sha256 for d in data)),
        samples=sum(d.samples for d in data),
        batch_size=first.batch_size,
        sequence=max(_length(next(iter(b.values()))) for b in samples.batches),
        fingerprints=list(samples.fingerprints) if known else [],
    )


def _length(array: np.ndarray) -> int:
    return array.shape[1] if array.ndim in (2, 3) else 1
