"""Profile bundles: every configuration in a fresh process, rounds interleaved."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from calib.data import DATA_FIX
from calib.fingerprints import shared
from calib.inputs import Request
from deploy.audit import Audit, audit_engine, returned
from deploy.bundle import ENGINE, FLOAT_GRAPH, GOLDEN, Bundle, open_bundle
from deploy.energy import EnergyMeter
from deploy.engines import ENGINES
from deploy.hardware import default_threads, hardware, package_versions
from deploy.kernels import fused_attentions
from deploy.options import check_counts
from deploy.profiling.conditions import governor
from deploy.profiling.evaluation import EvaluationSet, read_evaluation
from deploy.profiling.results import (
    SCHEMA,
    Block,
    Coverage,
    Latency,
    Overlap,
    Parity,
    Row,
    SequenceScores,
)
from deploy.profiling.scoring import accuracy_figures, bounded, scores_from
from deploy.profiling.workers import WorkerProcess, time_interleaved
from deploy.sessions import Configuration, Engine, Running, int8_configuration
from export.onnx_file import load_clean, save_model
from export.passes.simulate import Simulate
from trueint8.artifacts import sha256_tree
from trueint8.errors import ConfigError, DataError, UnknownName
from trueint8.kinds import Kind
from trueint8.progress import Progress
from trueint8.registry import did_you_mean

MIN_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class ProfileRequest:
    """What to measure and how long.

    ``round_ms`` is the aim for one round of one configuration; a round has
    at least 3 inferences. ``engines`` empty means all in the bundle.
    """

    bundles: list[Path]
    data: Path
    rounds: int = 15
    round_ms: float = 150.0
    threads: int | None = None
    samples: int = 64
    batch_size: int = 8
    seq_len: int | None = None
    seed: int = 0
    engines: list[str] = field(default_factory=list)
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class _Session:
    """What all rows of one call share."""

    id: str
    threads: int
    environment: dict[str, Any]
    request: ProfileRequest
    data_sha256: str
    progress: Progress


def measure(request: ProfileRequest, progress: Progress) -> Iterator[Row]:
    """Verify all bundles, then measure and yield one engine of one bundle after the other.

    Raises:
        IntegrityError: Before anything runs, if a file of any bundle was changed.
        DataError: If there is no evaluation data, or it does not fit a model.
        RunError: If a configuration fails; nothing is measured in its place.
    """
    check_rounds(request.rounds)
    check_counts(request, ("threads", "samples", "batch_size", "seq_len"))
    with progress.step("verify bundles", total=len(request.bundles)) as advance:
        bundles = []
        for path in request.bundles:
            bundles.append(open_bundle(path))
            advance(1)
    if not bundles:
        raise ConfigError("no bundle to profile", fix="pass a folder that `deploy build` wrote")
    if not request.data.exists():
        raise DataError(f"no data at {request.data}", fix=DATA_FIX)
    _check_engines(request.engines, bundles)
    threads = request.threads or default_threads()
    session = _Session(
        id=uuid.uuid4().hex[:12],
        threads=threads,
        environment=_environment(request, threads),
        request=request,
        data_sha256=sha256_tree(request.data),
        progress=progress,
    )
    for bundle in bundles:
        with tempfile.TemporaryDirectory(prefix="trueint8-") as scratch:
            yield from _bundle_rows(session, bundle, Path(scratch))


def check_rounds(rounds: int) -> None:
    """Refuse fewer rounds than an interval needs.

    Raises:
        ConfigError: With the least number.
    """
    if rounds < MIN_ROUNDS:
        raise ConfigError(
            f"{rounds} rounds give no interval", fix=f"pass --rounds {MIN_ROUNDS} or more"
        )


def _check_engines(wanted: Sequence[str], bundles: Sequence[Bundle]) -> None:
    held = list(dict.fromkeys(name for b in bundles for name in b.manifest.engines))
    unknown = [name for name in wanted if name not in held]
    if unknown:
        raise UnknownName(
            f"no bundle given holds an engine {unknown[0]!r}",
            fix=f"{did_you_mean(unknown[0], held)}choose from: {', '.join(held)}",
        )


def _bundle_rows(session: _Session, bundle: Bundle, scratch: Path) -> Iterator[Row]:
    progress, asked = session.progress, session.request.samples
    data_file = scratch / "evaluation.npz"
    with progress.step(f"read {session.request.data.name} for {bundle.path.name}"):
        data = evaluation_data(session.request, bundle)
        data.save(data_file)
    if data.count < asked:
        progress.say(f"evaluated on {data.count} of {asked} sequences asked for")
    for name, entry in bundle.manifest.engines.items():
        if session.request.engines and name not in session.request.engines:
            continue
        engine: Engine = ENGINES.load(name)
        with progress.step(f"audit {bundle.path.name} on {name}"):
            audit = audit_engine(bundle, name)
        if engine.runs_here:
            simulated = _simulated(session, bundle, entry.graph, scratch)
            yield from _engine_rows(session, bundle, engine, data, data_file, simulated, audit)
        else:
            yield _built_row(session, bundle, name, audit)


def _simulated(session: _Session, bundle: Bundle, graph: str, scratch: Path) -> Path:
    """Return the simulation of a Q/DQ graph of the bundle, written once."""
    path = scratch / f"simulated-{graph}"
    if not path.exists():
        with session.progress.step(f"simulate {bundle.path.name}"):
            model = load_clean(bundle.path / graph)
            Simulate()(model)
            save_model(model, path)
    return path


def evaluation_data(request: ProfileRequest, bundle: Bundle) -> EvaluationSet:
    """Read the request's data as batches with targets for a bundle's task.

    Raises:
        DataError: If the data does not fit the model.
    """
    manifest = bundle.manifest
    sequence = request.seq_len or manifest.calibration.sequence
    return read_evaluation(
        request.data,
        Request(request.samples, request.batch_size, sequence, request.seed),
        manifest.model,
        manifest.graph_inputs(),
        graph=bundle.float_graph,
        tokenizer=bundle.tokenizer,
    )


def _engine_rows(
    session: _Session,
    bundle: Bundle,
    engine: Engine,
    data: EvaluationSet,
    data_file: Path,
    simulated: Path,
    audit: Audit,
) -> list[Row]:
    int8 = int8_configuration(engine)
    # where nothing runs in INT8, what the engine does with the Q/DQ graph is the simulation
    simulation = [Configuration("simulated", "fp32")] if _executes_int8(audit.coverage()) else []
    configurations = [
        *engine.floats(),
        *([*simulation, int8] if int8 is not None else []),
    ]
    folder = bundle.engine_folder(engine.name)
    paths = {"float": bundle.float_graph, "simulated": simulated, "int8": folder}
    running = bundle.running(engine.name, session.threads)
    reference = data_file.with_name(f"{engine.name}-reference.npz")
    title = f"{bundle.path.name} on {engine.name}"
    with ExitStack() as stack:
        workers = {}
        warmups = {}
        with session.progress.step(f"load {title}", total=len(configurations)) as advance:
            for c in configurations:
                worker = WorkerProcess(f"{title}, {c.name}", session.request.timeout_s)
                workers[c] = stack.enter_context(worker)
                path = folder if engine.runs_checkpoint else paths[c.graph]
                worker.open(engine.name, path, c, running)
                warmups[c] = worker.ask("warm_up", data=str(data_file))["times_ns"]
                advance(1)
        asked = session.request
        with session.progress.step(f"time {title}", total=asked.rounds) as advance:
            rounds, asides = time_interleaved(
                workers,
                warmups,
                rounds=asked.rounds,
                round_ms=asked.round_ms,
                seed=asked.seed,
                advance=advance,
            )
        scores = {}
        with session.progress.step(f"accuracy {title}", total=len(configurations)) as advance:
            for index, (c, worker) in enumerate(workers.items()):
                answer = worker.ask("scores", reference=str(reference), is_reference=index == 0)
                scores[c] = scores_from(answer)
                advance(1)
        golden = str(bundle.path / GOLDEN)
        error = workers[configurations[0]].ask("golden_error", golden=golden)["relative_error"]
    return [
        _row(
            session,
            bundle,
            engine.name,
            c,
            latency=_latency(session, data, warmups[c], rounds[c], asides[c].blocks),
            accuracy=accuracy_figures(scores[c]),
            scores=SequenceScores.model_validate(asdict(bounded(scores[c]))),
            parity=_parity(bundle, error if c == configurations[0] else None),
            overlap=_overlap(session, bundle, data),
            floats=[f.name for f in configurations if f.graph == "float"],
            coverage=audit.coverage() if c.graph == "int8" else None,
            attentions=None if c.graph == "simulated" else len(audit.attentions),
            fused_attentions=_fused(bundle, engine, c, paths[c.graph], running, audit),
            peak_memory_mib=max(asides[c].peak_kib) / 1024,
            pss_mib=max(asides[c].pss_kib) / 1024,
        )
        for c in configurations
    ]


def _latency(
    session: _Session,
    data: EvaluationSet,
    warmup: list[int],
    rounds: list[list[int]],
    blocks: list[Block],
) -> Latency:
    shape = next(iter(data.batches[0].values())).shape
    return Latency(
        batch=shape[0],
        sequence=shape[1] if len(shape) > 1 else 1,
        threads=session.threads,
        warmup_ns=warmup,
        rounds_ns=rounds,
        blocks=blocks,
    )


def _parity(bundle: Bundle, engine: float | None) -> Parity:
    found = bundle.manifest.parity
    return Parity(graph=found.relative_error, tolerance=found.tolerance, engine=engine)


def _fused(
    bundle: Bundle, engine: Engine, c: Configuration, path: Path, running: Running, audit: Audit
) -> int | None:
    """Return how many attentions a configuration executes in one kernel; None for simulations."""
    if c.graph == "int8":
        return sum(line.fused for line in audit.attentions)
    if c.graph == "simulated":
        return None
    path = bundle.engine_folder(engine.name) if engine.runs_checkpoint else path
    kernels = engine.audit(path, c, running, returned(bundle, engine.name))
    return fused_attentions(kernels, [line.matmuls for line in audit.attentions])


def _overlap(session: _Session, bundle: Bundle, data: EvaluationSet) -> Overlap | None:
    calibration = bundle.manifest.calibration
    if session.data_sha256 in calibration.data_sha256.split(", "):
        return Overlap(shared=data.count, compared=data.count)
    if not calibration.fingerprints or not data.fingerprints:
        return None
    found, compared = shared(data.fingerprints, calibration.fingerprints)
    return Overlap(shared=found, compared=compared)


def _built_row(session: _Session, bundle: Bundle, engine: str, audit: Audit) -> Row:
    return _row(
        session,
        bundle,
        engine,
        Configuration("int8", bundle.manifest.engines[engine].rest),
        kind=Kind.BUILT,
        coverage=audit.coverage(),
        attentions=len(audit.attentions),
        fused_attentions=sum(line.fused for line in audit.attentions),
    )


def _row(
    session: _Session,
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
    executes = graph == "int8" and _executes_int8(figures["coverage"])
    made = Kind.MEASURED if graph == "float" or executes else Kind.SIMULATED
    whole = graph in files and not ENGINES.load(engine).runs_checkpoint
    return Row(
        schema=SCHEMA,
        session=session.id,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        model=manifest.model.name,
        bundle=bundle.path.name,
        bundle_sha256=bundle.sha256,
        attention=manifest.model.attention,
        calibration=manifest.calibration_label,
        task=manifest.model.task,
        data=session.request.data.name,
        engine=engine,
        graph="float" if graph == "float" else "qdq",
        precision="int8" if executes else configuration.rest,
        rest=configuration.rest,
        mode=configuration.mode,
        kind=kind or made,
        size_mib=bundle.size_mib(files[graph]) if whole else None,
        environment=session.environment,
        **figures,
    )


def _executes_int8(coverage: Coverage | None) -> bool:
    """Say whether anything runs in INT8: ONNX Runtime's CUDA provider takes Q/DQ and has floats.

    Without a count (None) the engine is believed.
    """
    return coverage is None or coverage.int8_matmuls > 0


def _environment(request: ProfileRequest, threads: int) -> dict[str, Any]:
    return {
        **hardware(),
        "threads": threads,
        "load_average_1m": os.getloadavg()[0],
        "governor": governor() or "not readable",
        "energy": EnergyMeter().unavailable,
        "versions": package_versions(),
        "rounds": request.rounds,
        "seed": request.seed,
    }
