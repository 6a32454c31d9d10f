"""What was measured, as rows of a results file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from calib.fingerprints import shared
from deploy.audit import Audit, returned
from deploy.bundle import ENGINE, FLOAT_GRAPH, Bundle
from deploy.engines import ENGINES
from deploy.kernels import fused_attentions
from deploy.profiling.evaluation import EvaluationSet
from deploy.profiling.pool import Effort, Timed, Unit
from deploy.profiling.results import (
    SCHEMA,
    Coverage,
    DeviceMemory,
    Latency,
    Overlap,
    Parity,
    Row,
    SequenceScores,
)
from deploy.profiling.scoring import accuracy_figures, bounded
from deploy.sessions import Configuration
from trueint8.kinds import Kind

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Call:
    """What all rows of one call share."""

    id: str
    threads: int
    environment: dict[str, Any]
    data: Path
    data_sha256: str


def measured_row(
    call: Call, unit: Unit, c: Configuration, timed: Timed, effort: Effort, beside: str
) -> Row:
    """Return the row of one configuration of a unit.

    Args:
        call: Of the session.
        unit: That the configuration belongs to.
        c: The configuration.
        timed: What was learnt of it.
        effort: What it was measured with.
        beside: What names the pool it was timed in.
    """
    assert timed.scores is not None
    shape = next(iter(unit.data.batches[0].values())).shape
    bundle, audit = unit.bundle, unit.audit
    return _row(
        call,
        bundle,
        unit.engine.name,
        c,
        latency=Latency(
            batch=shape[0],
            sequence=shape[1] if len(shape) > 1 else 1,
            threads=call.threads,
            warmup_ns=timed.warmup_ns,
            rounds_ns=timed.rounds_ns,
            launches=effort.launches,
            clock=effort.clock,
            beside=beside,
            blocks=timed.blocks,
        ),
        load_s=[round(seconds, 4) for seconds in timed.load_s],
        accuracy=accuracy_figures(timed.scores),
        scores=SequenceScores.model_validate(asdict(bounded(timed.scores))),
        parity=_parity(bundle, timed.golden_error),
        overlap=_overlap(call, bundle, unit.data),
        floats=[f.name for f in unit.paths if f.graph == "float"],
        coverage=audit.coverage() if c.graph == "int8" else None,
        attentions=None if c.graph == "simulated" else len(audit.attentions),
        fused_attentions=_fused(unit, c),
        peak_memory_mib=timed.peak_kib / 1024,
        pss_mib=timed.pss_kib / 1024,
        device_memory=_device_memory(timed),
        cuda_graph=timed.cuda_graph,
    )


def built_row(call: Call, bundle: Bundle, engine: str, audit: Audit) -> Row:
    """Return the row of an engine that cannot run here."""
    return _row(
        call,
        bundle,
        engine,
        Configuration("int8", bundle.manifest.engines[engine].rest),
        kind=Kind.BUILT,
        coverage=audit.coverage(),
        attentions=len(audit.attentions),
        fused_attentions=sum(line.fused for line in audit.attentions),
    )


def executes_int8(coverage: Coverage | None) -> bool:
    """Say whether anything runs in INT8: ONNX Runtime's CUDA provider takes Q/DQ and has floats.

    Without a count (None) the engine is believed.
    """
    return coverage is None or coverage.int8_matmuls > 0


def _row(
    call: Call,
    bundle: Bundle,
    engine: str,
    configuration: Configuration,
    *,
    kind: Kind | None = None,
    **figures: Any,
) -> Row:
    manifest = bundle.manifest
    graph = configuration.graph
    files = {"float": FLOAT_GRAPH, "int8": f"{ENGINE}/{engine}/"}
    executes = graph == "int8" and executes_int8(figures["coverage"])
    made = Kind.MEASURED if graph == "float" or executes else Kind.SIMULATED
    whole = graph in files and not ENGINES.load(engine).runs_checkpoint
    return Row(
        schema=SCHEMA,
        session=call.id,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        model=manifest.model.name,
        bundle=bundle.path.name,
        bundle_sha256=bundle.sha256,
        attention=manifest.model.attention,
        calibration=manifest.calibration_label,
        task=manifest.model.task,
        data=call.data.name,
        data_sha256=call.data_sha256,
        engine=engine,
        graph="float" if graph == "float" else "qdq",
        precision="int8" if executes else configuration.rest,
        rest=configuration.rest,
        mode=configuration.mode,
        kind=kind or made,
        build_s=manifest.steps_s.get(f"build {engine}") if graph == "int8" else None,
        size_mib=bundle.size_mib(files[graph]) if whole else None,
        environment=call.environment,
        **figures,
    )


def _device_memory(timed: Timed) -> DeviceMemory | None:
    told = timed.device_memory
    if told is None:
        return None
    in_mib = {f"{k}_mib": v if v is None else v / _MIB for k, v in told.items()}
    return DeviceMemory.model_validate(in_mib)


def _parity(bundle: Bundle, engine: float | None) -> Parity:
    found = bundle.manifest.parity
    return Parity(graph=found.relative_error, tolerance=found.tolerance, engine=engine)


def _fused(unit: Unit, c: Configuration) -> int | None:
    """Return how many attentions a configuration executes in one kernel; None for simulations."""
    if c.graph == "int8":
        return sum(line.fused for line in unit.audit.attentions)
    if c.graph == "simulated":
        return None
    matmuls = returned(unit.bundle, unit.engine.name)
    kernels = unit.engine.audit(unit.paths[c], c, unit.running, matmuls)
    return fused_attentions(kernels, [line.matmuls for line in unit.audit.attentions])


def _overlap(call: Call, bundle: Bundle, data: EvaluationSet) -> Overlap | None:
    calibration = bundle.manifest.calibration
    if call.data_sha256 in calibration.data_sha256.split(", "):
        return Overlap(shared=data.count, compared=data.count)
    if not calibration.fingerprints or not data.fingerprints:
        return None
    found, compared = shared(data.fingerprints, calibration.fingerprints)
    return Overlap(shared=found, compared=compared)
