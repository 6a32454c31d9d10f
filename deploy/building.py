"""The build: checkpoint or ONNX file to a sealed bundle, step by step."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx_ir as ir
from safetensors.numpy import save

from calib.collector import Observation, observe
from calib.data import GraphInput, Samples, check_tokens
from calib.estimators import ESTIMATORS
from calib.placement import Placement, place_qdq
from calib.qdq import insert_qdq
from calib.schemes import QuantParams, activation_params
from deploy import bundle as layout
from deploy.bundle import Bundle, open_bundle, seal
from deploy.engines import ENGINES
from deploy.golden import draw_inputs, write_golden
from deploy.hardware import default_threads, hardware, package_versions
from deploy.manifest import (
    CalibrationEntry,
    EngineEntry,
    InputEntry,
    Manifest,
    MatMulEntry,
    ModelEntry,
    ParityEntry,
)
from deploy.planning import BuildPlan
from deploy.sessions import BuildRequest, Configuration, Engine, Shapes
from export.matmuls import find_matmuls, macs_from_shapes, vocabulary_size
from export.onnx_file import load_clean, load_onnx_file, save_model
from export.source import TOKENIZER_FILES
from trueint8.artifacts import no_space, staged_folder, storage_errors
from trueint8.errors import BuildError, CalibrationError, ConfigError, ExportError
from trueint8.progress import Progress

RTX_MAX_SEQUENCE = 512
_DISK_IS_FULL_BELOW_BYTES = 1 << 20


@dataclass(slots=True)
class _Steps:
    """Seconds each step took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)


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
    steps = _Steps()
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
    with steps.timed("quantize"), progress.step("quantize weights"):
        _quantize(folder, graph, placement, seen, plan)
    with steps.timed("golden"):
        golden = _golden(folder, plan, inputs, samples, progress)
    macs = macs_from_shapes(load_clean(folder / layout.FLOAT_GRAPH), seen.shapes)
    engines = _engines(folder, plan, placement, samples, steps, progress)
    _copy_tokenizer(folder, plan)
    manifest = Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        request=plan.request(),
        model=_model_entry(plan),
        inputs=[InputEntry(name=i.name, dtype=i.dtype.name, shape=list(i.shape)) for i in inputs],
        parity=parity,
        calibration=_calibration_entry(plan, samples),
        matmuls=[
            MatMulEntry(
                name=s.matmul.name,
                weighted=s.matmul.weight is not None,
                macs=macs[s.matmul.name],
                returns=s.matmul.returns,
                reason=s.reason,
            )
            for s in placement.sites
        ],
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


def _export(
    folder: Path, plan: BuildPlan, progress: Progress
) -> tuple[list[GraphInput], Samples, ParityEntry | None]:
    out = folder / layout.FLOAT_GRAPH
    if plan.source.kind == "onnx":
        with progress.step("read ONNX"):
            save_model(load_onnx_file(plan.source.path), out)
        inputs = graph_inputs(load_clean(out))
        samples = plan.load_calibration(inputs)
        check_tokens(samples, vocabulary_size(load_clean(out), "input_ids"))
        return inputs, samples, None
    from export.checkpoint import input_names, load_checkpoint
    from export.torch_export import export_checkpoint

    with progress.step("load checkpoint"):
        model = load_checkpoint(plan.source, allow_pickle=plan.allow_pickle)
    names = input_names(model, plan.source)
    inputs = [GraphInput(n, np.dtype(np.int64), (None, None)) for n in names]
    samples = plan.load_calibration(inputs)
    check_tokens(samples, (plan.source.config or {}).get("vocab_size"))
    with progress.step("export to ONNX"):
        parity = export_checkpoint(model, plan.source.task, samples.batches[:1], out)
    progress.say(
        f"parity with torch: largest difference {parity.relative_error:.1e} of the largest "
        f"output (tolerance {parity.tolerance:.0e})"
    )
    return (
        inputs,
        samples,
        ParityEntry(
            relative_error=parity.relative_error, tolerance=parity.tolerance, shapes=parity.shapes
        ),
    )


def graph_inputs(graph: ir.Model) -> list[GraphInput]:
    """Return the inputs of a graph with its fixed and dynamic axes."""
    found = []
    for value in graph.graph.inputs:
        if value.shape is None or value.dtype is None:
            raise ExportError(
                f"the graph's input {value.name!r} has no shape or type",
                fix="export the model again; onnx.shape_inference can fill in what is missing",
            )
        shape = tuple(d if isinstance(d, int) else None for d in value.shape)
        found.append(GraphInput(str(value.name), np.dtype(value.dtype.numpy()), shape))
    return found


def _quantize(
    folder: Path, graph: ir.Model, placement: Placement, seen: Observation, plan: BuildPlan
) -> None:
    estimate = ESTIMATORS.load(plan.calib)
    options = {"percentile": plan.percentile} if plan.calib == "percentile" else {}
    amax = {name: float(estimate(seen.stats[name], **options)) for name in placement.tensors}
    params = {name: activation_params(name, value) for name, value in amax.items()}
    with storage_errors(folder):
        (folder / layout.RANGES).write_bytes(save(_ranges(seen, amax, params)))
    insert_qdq(graph, placement, params)
    save_model(graph, folder / layout.INT8_GRAPH)


def _ranges(
    seen: Observation, amax: Mapping[str, float], params: Mapping[str, QuantParams]
) -> dict[str, np.ndarray]:
    table = {}
    for name, stats in seen.stats.items():
        table[f"{name}/amax"] = np.array([amax[name]], np.float32)
        table[f"{name}/scale"] = params[name].scale.reshape(1)
        table[f"{name}/min_max"] = np.array([stats.minimum, stats.maximum], np.float32)
        table[f"{name}/count"] = np.array([stats.count], np.int64)
    return table


def _golden(
    folder: Path,
    plan: BuildPlan,
    inputs: list[GraphInput],
    samples: Samples,
    progress: Progress,
) -> str:
    like = samples.batches[0]
    graph = load_clean(folder / layout.FLOAT_GRAPH)
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


def _engines(
    folder: Path,
    plan: BuildPlan,
    placement: Placement,
    samples: Samples,
    steps: _Steps,
    progress: Progress,
) -> dict[str, EngineEntry]:
    names = {s.matmul.name: s.matmul.returns for s in placement.sites}
    entries = {}
    for name in plan.engines:
        engine: Engine = ENGINES.load(name)
        target = folder / layout.ENGINE / name
        target.mkdir(parents=True)
        with steps.timed(f"build {name}"), _full_disk_told(target):
            engine.build(
                BuildRequest(
                    int8_graph=folder / layout.INT8_GRAPH,
                    folder=target,
                    shapes=_shapes(samples.batches[0], plan.source.max_positions),
                    progress=progress,
                )
            )
        with steps.timed(f"check {name}"), progress.step(f"check {name}"):
            audit = engine.audit(target, names)
            if engine.runs_here:
                _prove_it_runs(engine, target, samples.batches[0])
        entries[name] = EngineEntry(
            version=engine.version(),
            runs_here=engine.runs_here,
            rest=engine.int8_rest(),
            int8_matmuls=sum(p == "int8" for p in audit.values()),
        )
    return entries


@contextmanager
def _full_disk_told(folder: Path) -> Iterator[None]:
    """Say that the disk is full where an engine's own message hides it."""
    try:
        yield
    except BuildError as err:
        if shutil.disk_usage(folder).free < _DISK_IS_FULL_BELOW_BYTES:
            raise no_space(folder) from err
        raise


def _prove_it_runs(engine: Engine, folder: Path, batch: Mapping[str, np.ndarray]) -> None:
    """Load the engine from the files just written and run it, so that none is sealed broken."""
    with engine.open(
        folder, Configuration("int8", engine.int8_rest()), default_threads()
    ) as session:
        outputs = session.run(batch)
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise CalibrationError(
                f"the INT8 engine {engine.name} gives NaN or infinite values in {name!r}",
                fix="try another --calib or a higher --percentile",
            )


def _shapes(batch: Mapping[str, np.ndarray], max_positions: int | None) -> Shapes:
    """Return (1, 1, ...), the calibration batch's shape, and that with the longest sequence."""
    longest = min(max_positions or RTX_MAX_SEQUENCE, RTX_MAX_SEQUENCE)
    shapes = {}
    for name, array in batch.items():
        usual = array.shape
        smallest = (*(1 for _ in usual[:2]), *usual[2:])
        tokens = array.dtype.kind == "i" and array.ndim == 2
        largest = (usual[0], max(usual[1], longest)) if tokens else usual
        shapes[name] = (smallest, usual, largest)
    return shapes


def _copy_tokenizer(folder: Path, plan: BuildPlan) -> None:
    source = plan.source.tokenizer
    if source is None:
        return
    target = folder / layout.TOKENIZER
    target.mkdir()
    for name in (*TOKENIZER_FILES, "config.json"):
        if (source / name).is_file():
            with storage_errors(target):
                (target / name).write_bytes((source / name).read_bytes())


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
        sequence=max(next(iter(b.values())).shape[1] for b in samples.batches),
    )
