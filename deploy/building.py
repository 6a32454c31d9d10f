"""The build: checkpoint or ONNX file to a sealed bundle, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx_ir as ir
from safetensors.numpy import save

from calib.collector import Observation, observe
from calib.data import Samples, check_tokens
from calib.estimators import ESTIMATORS
from calib.inputs import GraphInput
from calib.placement import Placement, place_qdq
from calib.qdq import insert_qdq
from calib.schemes import QuantParams, Range, params_of_range
from deploy import bundle as layout
from deploy.bundle import Bundle, open_bundle, seal
from deploy.compiling import Steps, build_engines
from deploy.exporting import copy_tokenizer, load_torch_model
from deploy.golden import draw_inputs, write_golden
from deploy.hardware import hardware, package_versions, peak_mebibytes
from deploy.manifest import (
    CalibrationEntry,
    InputEntry,
    Manifest,
    MatMulEntry,
    ModelEntry,
    ParityEntry,
)
from deploy.planning import BuildPlan
from export.matmuls import find_matmuls, macs_from_shapes, vocabulary_size
from export.onnx_file import load_as_written, load_clean, load_onnx_file, save_model
from export.other_operators import counted_operators, operator_macs, uncounted_operators
from export.parity import Parity, compare_outputs
from export.reference import open_reference
from trueint8.artifacts import staged_folder, storage_errors
from trueint8.errors import BuildError, ConfigError, ExportError
from trueint8.progress import Progress

_INPUT_TYPES = (ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


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
    with staged_folder(plan.out, replace=plan.force) as folder:
        sealed = _build_into(folder, plan, progress)
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


def _build_into(folder: Path, plan: BuildPlan, progress: Progress) -> Bundle:
    steps = Steps()
    warnings = [w for w in (plan.length_warning(),) if w is not None]
    for warning in warnings:
        progress.say(f"warning: {warning}")
    with steps.timed("export"):
        inputs, samples, parity = _export(folder, plan, progress)
    graph = load_clean(folder / layout.FLOAT_GRAPH)
    matmuls = find_matmuls(graph, modules_named=plan.source.kind == "checkpoint")
    placement = place_qdq(matmuls, quantize_head=plan.quantize_head)
    if not placement.quantized:
        raise BuildError(
            f"{plan.source.name} has no matmul with weights to quantize",
            fix="check that the graph holds MatMul or Gemm nodes with constant weights",
        )
    with steps.timed("calibrate"):
        seen = observe(
            folder / layout.FLOAT_GRAPH,
            placement.tensors,
            samples.batches,
            scratch=folder,
            progress=progress,
        )
    with steps.timed("golden"):
        golden = _golden(folder, plan, graph, inputs, samples, progress)
    entries = _matmul_entries(graph, placement, seen)
    uncounted = uncounted_operators(graph)
    with steps.timed("quantize"), progress.step("quantize weights"):
        _quantize(folder, graph, placement, seen, plan)
    engines = build_engines(folder, plan, inputs, placement, samples, steps, progress)
    if plan.source.tokenizer is not None:
        (folder / layout.TOKENIZER).mkdir()
        copy_tokenizer(plan.source, folder / layout.TOKENIZER)
    manifest = Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        request=plan.request(),
        model=_model_entry(plan),
        inputs=[InputEntry(name=i.name, dtype=i.dtype.name, shape=list(i.shape)) for i in inputs],
        parity=parity,
        calibration=_calibration_entry(plan, samples),
        matmuls=entries,
        uncounted=uncounted,
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


def _matmul_entries(graph: ir.Model, placement: Placement, seen: Observation) -> list[MatMulEntry]:
    """Return every matmul with its decision, and every Conv and Gemm, which are not quantized."""
    macs = macs_from_shapes(graph, seen.shapes)
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
            macs=operator_macs(node, seen.shapes),
            returns="",
            reason=f"{node.op_type} is not quantized by this version",
        )
        for node in counted_operators(graph)
    ]
    return matmuls + others


def _export(
    folder: Path, plan: BuildPlan, progress: Progress
) -> tuple[list[GraphInput], Samples, ParityEntry]:
    out = folder / layout.FLOAT_GRAPH
    if plan.source.kind == "onnx":
        with progress.step("read ONNX"):
            save_model(load_onnx_file(plan.source.path), out)
        graph = load_clean(out)
        inputs = graph_inputs(graph)
        samples = plan.load_calibration(inputs)
        check_tokens(samples, vocabulary_size(graph, "input_ids"))
        with progress.step("compare with the original"):
            parity = _onnx_parity(plan.source.path, out, samples.batches[0])
        _say_parity(progress, parity, "the original graph")
        return inputs, samples, _parity_entry(parity)
    from export.torch_export import export_module

    with progress.step("load model"):
        model, inputs = load_torch_model(
            plan.source, plan.calib_data, allow_pickle=plan.allow_pickle
        )
    samples = plan.load_calibration(inputs)
    check_tokens(samples, (plan.source.config or {}).get("vocab_size"))
    with progress.step("export to ONNX"):
        parity = export_module(model, samples.batches[:1], out)
    progress.say(f"peak memory so far {peak_mebibytes():,.0f} MiB")
    _say_parity(progress, parity, "torch")
    return inputs, samples, _parity_entry(parity)


def _onnx_parity(original: Path, clean: Path, batch: Mapping[str, np.ndarray]) -> Parity:
    copy = clean.with_name("original.onnx")
    save_model(load_as_written(original), copy)
    with open_reference(copy) as run:
        expected = run(batch)
    copy.unlink()
    copy.with_name(f"{copy.name}.data").unlink(missing_ok=True)
    with open_reference(clean) as run:
        actual = run(batch)
    return compare_outputs(
        [(expected[name], actual[name]) for name in expected],
        [list(a.shape) for a in batch.values()][:1],
        "the original graph",
    )


def _say_parity(progress: Progress, parity: Parity, original: str) -> None:
    progress.say(
        f"parity with {original}: largest difference {parity.relative_error:.1e} of the largest "
        f"output (tolerance {parity.tolerance:.0e})"
    )


def _parity_entry(parity: Parity) -> ParityEntry:
    return ParityEntry(
        relative_error=parity.relative_error, tolerance=parity.tolerance, shapes=parity.shapes
    )


def graph_inputs(graph: ir.Model) -> list[GraphInput]:
    """Return the inputs of a graph with its fixed and dynamic axes."""
    found = []
    if not graph.graph.inputs:
        raise ExportError("the graph has no inputs", fix="export the model with its inputs")
    for value in graph.graph.inputs:
        if value.shape is None or value.dtype is None or not len(value.shape):
            raise ExportError(
                f"the graph's input {value.name!r} is a scalar, or has no shape or type",
                fix="export the model with a batch axis on every input",
            )
        if value.dtype not in _INPUT_TYPES:
            raise ExportError(
                f"the graph's input {value.name!r} is {value.dtype}",
                fix="export the model with inputs in float32, int64, int32 or bool",
            )
        shape = tuple(d if isinstance(d, int) else None for d in value.shape)
        found.append(GraphInput(str(value.name), np.dtype(value.dtype.numpy()), shape))
    return found


def _quantize(
    folder: Path, graph: ir.Model, placement: Placement, seen: Observation, plan: BuildPlan
) -> None:
    estimate = ESTIMATORS.load(plan.calib)
    options = {"percentile": plan.percentile} if plan.calib == "percentile" else {}
    found = {name: estimate(seen.stats[name], **options) for name in placement.tensors}
    params = {name: params_of_range(name, covered) for name, covered in found.items()}
    with storage_errors(folder):
        (folder / layout.RANGES).write_bytes(save(_ranges(seen, found, params)))
    insert_qdq(graph, placement, params)
    save_model(graph, folder / layout.INT8_GRAPH)


def _ranges(
    seen: Observation, found: Mapping[str, Range], params: Mapping[str, QuantParams]
) -> dict[str, np.ndarray]:
    table = {}
    for name, stats in seen.stats.items():
        table[f"{name}/amax"] = np.array([found[name].amax], np.float32)
        table[f"{name}/scale"] = params[name].scale.reshape(1)
        table[f"{name}/min_max"] = np.array([stats.minimum, stats.maximum], np.float32)
        table[f"{name}/count"] = np.array([stats.count], np.int64)
    return table


def _golden(
    folder: Path,
    plan: BuildPlan,
    graph: ir.Model,
    inputs: list[GraphInput],
    samples: Samples,
    progress: Progress,
) -> str:
    like = samples.batches[0]
    if plan.golden is not None:
        given = plan.load_golden(inputs)
        check_tokens(given, vocabulary_size(graph, "input_ids"))
        arrays, origin = given.batches[0], f"data: {plan.golden.name}"
    elif plan.golden_from_calib:
        arrays, origin = like, "calibration data"
    else:
        arrays, origin = draw_inputs(graph, inputs, like, plan.seed), f"drawn, seed {plan.seed}"
    with progress.step("golden outputs"):
        write_golden(folder / layout.FLOAT_GRAPH, arrays, folder / layout.GOLDEN)
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


def _calibration_entry(plan: BuildPlan, samples: Samples) -> CalibrationEntry:
    return CalibrationEntry(
        estimator=plan.calib,
        percentile=plan.percentile if plan.calib == "percentile" else None,
        data=samples.name,
        data_sha256=samples.sha256,
        samples=samples.count,
        batch_size=len(next(iter(samples.batches[0].values()))),
        sequence=max(_length(next(iter(b.values()))) for b in samples.batches),
    )


def _length(array: np.ndarray) -> int:
    return array.shape[1] if array.ndim in (2, 3) else 1
