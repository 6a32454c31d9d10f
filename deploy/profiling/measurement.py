"""Profile bundles: every configuration in fresh processes, rounds of all interleaved."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calib.data import DATA_FIX
from calib.inputs import Request
from deploy.audit import audit_engine
from deploy.bundle import Bundle, open_bundle
from deploy.energy import EnergyMeter
from deploy.engines import ENGINES
from deploy.hardware import default_threads, hardware, package_versions
from deploy.options import check_counts
from deploy.profiling.comparison import LEAST_LAUNCHES
from deploy.profiling.conditions import governor
from deploy.profiling.contest import Effort as ContestEffort
from deploy.profiling.cuda_graphs import check_has_cuda_graphs, with_cuda_graph
from deploy.profiling.evaluation import EvaluationSet, read_evaluation
from deploy.profiling.gathering import with_evidence
from deploy.profiling.pool import Effort, Unit, launches_of, run_pool
from deploy.profiling.rebuilding import rebuild
from deploy.profiling.results import Clock, Row
from deploy.profiling.rows import Call, built_row, executes_int8, measured_row
from deploy.profiling.throughput import Demand, measure_throughput
from deploy.sessions import Configuration, Engine, int8_configuration
from export.onnx_file import load_clean, save_model
from export.passes.simulate import Simulate
from trueint8.artifacts import sha256_tree
from trueint8.errors import ConfigError, DataError, TrueInt8Error, UnknownName
from trueint8.progress import Progress
from trueint8.registry import did_you_mean

MIN_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class ProfileRequest:
    """What to measure and how long.

    ``rounds`` are spread over ``launches``, fresh processes of each configuration; None is as many
    as have 3 rounds, at most 5. ``round_ms`` is the aim for one round of one configuration; a
    round has at least 3 inferences. ``engines`` empty means all in the bundle.
    ``rebuilds`` is how often INT8 engines are built again. Throughput is measured for every pair of
    ``batches`` and ``streams`` if either is given; empty is then the batch size, and one stream.
    ``cuda_graph`` turns CUDA graphs on or off; None runs engines as they were built.
    ``clock`` is what takes the time: see :data:`deploy.profiling.worker.CLOCKS`.
    """

    bundles: list[Path]
    data: Path
    rounds: int = 15
    launches: int | None = None
    round_ms: float = 150.0
    threads: int | None = None
    samples: int = 64
    batch_size: int = 8
    seq_len: int | None = None
    seed: int = 0
    engines: list[str] = field(default_factory=list)
    rebuilds: int = 0
    batches: list[int] = field(default_factory=list)
    streams: list[int] = field(default_factory=list)
    timeout_s: float = 600.0
    clock: Clock = "host"
    cuda_graph: bool | None = None


def measure(request: ProfileRequest, progress: Progress) -> Iterator[Row]:
    """Verify all bundles, measure all their engines beside each other, and yield the rows.

    Raises:
        IntegrityError: Before anything runs, if a file of any bundle was changed; afterwards, if
            one was changed meanwhile.
        DataError: Likewise, if there is no evaluation data, or it does not fit a model.
        RunError: If a configuration fails; nothing is measured in its place, and rows of the
            engines before it come first.
    """
    check_rounds(request.rounds)
    check_counts(request, ("launches", "threads", "samples", "batch_size", "seq_len"))
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
    if any(count < 1 for count in (*request.batches, *request.streams)):
        raise ConfigError("a batch or a number of streams is below 1", fix="pass 1 or more")
    if request.rebuilds not in (0, *range(2, 100)):
        raise ConfigError(f"{request.rebuilds} rebuilds have no spread", fix="pass --rebuilds 2")
    threads = request.threads or default_threads()
    call = Call(
        id=uuid.uuid4().hex[:12],
        threads=threads,
        environment=_environment(request, threads),
        data=request.data,
        data_sha256=sha256_tree(request.data),
    )
    with tempfile.TemporaryDirectory(prefix="trueint8-") as scratch:
        items: list[Unit | Row] = []
        for number, bundle in enumerate(bundles):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            items += _bundle_units(request, call, bundle, folder, progress)
        yield from _rows(request, call, items, progress)


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


def _rows(
    request: ProfileRequest, call: Call, items: Sequence[Unit | Row], progress: Progress
) -> Iterator[Row]:
    """Yield rows in the order of ``items``, and measure pool by pool as they are needed."""
    launches = launches_of(request.rounds, request.launches)
    effort = Effort(
        request.rounds,
        launches,
        request.round_ms,
        request.seed,
        request.timeout_s,
        request.clock,
    )
    demands = [
        Demand(batch, streams)
        for batch in request.batches or [request.batch_size]
        for streams in request.streams or [1]
        if request.batches or request.streams
    ]
    waiting = [item for item in items if isinstance(item, Unit)]
    ready: list[list[Row]] = []
    error: TrueInt8Error | None = None
    pools = 0
    for item in items:
        if isinstance(item, Row):
            yield item
            continue
        if not ready:
            if error is not None:
                raise error
            pool, pools = run_pool(waiting, effort, progress), pools + 1
            error, beside = pool.error, f"{call.id}-{pools}"
            count = len({number for number, _ in pool.timed})
            for number, unit in enumerate(waiting[:count]):
                mine = {c: pool.timed[number, c] for c in unit.paths}
                rows = [measured_row(call, unit, c, t, effort, beside) for c, t in mine.items()]
                ready.append([with_evidence(row, unit.bundle, unit.audit) for row in rows])
            waiting = waiting[count:]
        rows = ready.pop(0)
        if demands:
            rows = _with_throughput(item, rows, demands, effort, progress)
        if request.rebuilds:
            rows = list(_with_rebuilds(request, item, rows, progress))
        item.bundle.check_unchanged()
        yield from rows


def _with_throughput(
    unit: Unit, rows: Sequence[Row], demands: Sequence[Demand], effort: Effort, progress: Progress
) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="trueint8-") as scratch:
        found = measure_throughput(unit, demands, effort, Path(scratch), progress)
    return [
        row.model_copy(update={"throughput": found[c]}) if c in found else row
        for row, c in zip(rows, unit.paths, strict=True)
    ]


def _with_rebuilds(
    request: ProfileRequest, unit: Unit, rows: Sequence[Row], progress: Progress
) -> Iterator[Row]:
    """Yield rows, that of INT8 with what became of building its engine again."""
    launches = max(LEAST_LAUNCHES, launches_of(request.rounds, request.launches))
    each = -(-request.rounds // launches)
    effort = ContestEffort(launches, each, request.round_ms, request.seed, request.timeout_s)
    for row, c in zip(rows, unit.paths, strict=True):
        if c.graph != "int8":
            yield row
        elif unit.engine.runs_checkpoint:
            progress.say(f"{unit.title} is not built again: it is built from the checkpoint")
            yield row
        else:
            with tempfile.TemporaryDirectory(prefix="trueint8-") as scratch:
                found = rebuild(unit, request.rebuilds, effort, Path(scratch), progress)
            yield row.model_copy(update={"rebuilds": found})


def _bundle_units(
    request: ProfileRequest, call: Call, bundle: Bundle, scratch: Path, progress: Progress
) -> Iterator[Unit | Row]:
    """Yield what is measured of a bundle, and the rows of engines that cannot run here."""
    data_file = scratch / "evaluation.npz"
    with progress.step(f"read {request.data.name} for {bundle.path.name}"):
        data = evaluation_data(request, bundle)
        data.save(data_file)
    if data.count < request.samples:
        progress.say(f"evaluated on {data.count} of {request.samples} sequences asked for")
    for name, entry in bundle.manifest.engines.items():
        if request.engines and name not in request.engines:
            continue
        engine: Engine = ENGINES.load(name)
        check_has_cuda_graphs(engine, request.cuda_graph)
        with progress.step(f"audit {bundle.path.name} on {name}"):
            audit = audit_engine(bundle, name)
        if not engine.runs_here:
            yield with_evidence(built_row(call, bundle, name, audit), bundle, audit)
            continue
        int8 = int8_configuration(engine)
        # where nothing runs in INT8, what the engine does with the Q/DQ graph is the simulation
        simulation = [Configuration("simulated", "fp32")] if executes_int8(audit.coverage()) else []
        configurations = [*engine.floats(), *([*simulation, int8] if int8 is not None else [])]
        simulated = _simulated(bundle, entry.graph, scratch, progress)
        folder = bundle.engine_folder(name)
        paths = {"float": bundle.float_graph, "simulated": simulated, "int8": folder}
        yield Unit(
            bundle=bundle,
            engine=engine,
            audit=audit,
            data=data,
            data_file=data_file,
            paths={c: folder if engine.runs_checkpoint else paths[c.graph] for c in configurations},
            running=with_cuda_graph(bundle.running(name, call.threads), request.cuda_graph),
            cuda_graph=request.cuda_graph,
        )


def _simulated(bundle: Bundle, graph: str, scratch: Path, progress: Progress) -> Path:
    """Return the simulation of a Q/DQ graph of the bundle, written once."""
    path = scratch / f"simulated-{graph}"
    if not path.exists():
        with progress.step(f"simulate {bundle.path.name}"):
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
