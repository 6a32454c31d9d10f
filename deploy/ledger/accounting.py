"""The ledger of every configuration of a bundle's engines, from their own measurements."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from deploy.audit import returned
from deploy.bundle import Bundle
from deploy.drawn_inputs import USUAL, draw_shaped
from deploy.graph_shapes import choose_shapes, inputs_of, profile_shapes
from deploy.hardware import default_threads
from deploy.ledger.costs import BITS, Cost, Roof, bytes_in, costs_of
from deploy.ledger.dispatch import Dispatch, beside_device, measure_line
from deploy.ledger.eligible import chosen_engines, has_plans, probes
from deploy.ledger.parts import Timed, parts_of
from deploy.ledger.plans import check_built_for, compiled_once, measure_device_copies
from deploy.ledger.probing import ON_GPU, ON_PROCESSOR, measure_copies, measure_peaks
from deploy.ledger.record import (
    Interval,
    Ledger,
    Peak,
    PeakPrecision,
    Probe,
    SpeedUp,
    SpeedUpSource,
)
from deploy.ledger.small_calls import measure_small_calls, small_batch
from deploy.ledger.timing import Batch, SessionTimes, time_interleaved_sessions
from deploy.nvidia.device import open_device
from deploy.profiling.measurement import check_rounds
from deploy.profiling.statistics import median_ms, quantile_ms, speed_up
from deploy.sessions import Configuration, Engine, Running, int8_configuration
from export.attentions import find_attentions
from export.matmuls import vocabulary_size
from export.onnx_file import load_clean, save_model
from export.passes.simulate import Simulate
from trueint8.errors import ConfigError
from trueint8.kinds import Kind
from trueint8.progress import Progress

_SIMULATED = Configuration("simulated", "fp32")


@dataclass(frozen=True, slots=True)
class LedgerRequest:
    """What to account for.

    Attributes:
        bundle: Verified.
        engines: Names; empty for all that run here.
        shapes: Of inputs; the others follow, or are those that the bundle was built for.
        rounds: Interleaved rounds.
        round_ms: Aim for one session's calls in a round.
        threads: Of every engine and probe; None for all.
    """

    bundle: Bundle
    engines: Sequence[str] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    rounds: int = 7
    round_ms: float = 150.0
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class _Subject:
    """The float graph of a bundle with one batch, and what that costs."""

    model: ir.Model
    batch: Mapping[str, np.ndarray]
    costs: Sequence[Cost]
    attentions: Sequence[tuple[str, str]]
    threads: int
    request: LedgerRequest

    def running(self, engine: Engine) -> Running:
        """Return how an engine runs it, at the shapes of the batch.

        Plans are all compiled for the shapes of the one that the bundle holds.
        """
        built = self.request.bundle.running(engine.name, self.threads)
        if has_plans(engine):
            return built
        shapes = profile_shapes(self.model, {k: v.shape for k, v in self.batch.items()})
        return replace(built, shapes=shapes)

    def small(self) -> Batch:
        """Return the first rows and tokens of the batch."""
        return small_batch(self.batch, inputs_of(self.model))

    def check(self, engine: Engine) -> None:
        """Refuse a batch of which the engine has no ledger, before anything is timed.

        Raises:
            ConfigError: With shapes that have one.
        """
        if engine.runs_checkpoint:
            self.small()
        if has_plans(engine):
            check_built_for(self.running(engine).shapes or {}, self.batch)


def account(request: LedgerRequest, progress: Progress) -> Iterator[list[Ledger]]:
    """Measure and yield the ledgers of one engine after the other, float first.

    Raises:
        ConfigError: If a shape is not the graph's, or an engine cannot be accounted for.
        RunError: If an engine fails.
    """
    check_rounds(request.rounds)
    engines = chosen_engines(request.bundle, request.engines)
    with progress.step("count the matmuls"):
        subject = _subject(request)
    engines = _with_this_batch(engines, subject)
    peaks: dict[bool, list[Peak]] = {}
    with progress.step("probe the machine"):
        for plans in {has_plans(engine) for engine in engines}:
            size = ON_GPU if plans else ON_PROCESSOR
            peaks[plans] = measure_peaks(
                probes(plans=plans), subject.threads, size, needed=[e.name for e in engines]
            )
    for engine in engines:
        yield _of_engine(engine, subject, peaks[has_plans(engine)], progress)


def _with_this_batch(engines: Sequence[Engine], subject: _Subject) -> list[Engine]:
    """Return the engines whose ledger this batch gives; all of them if they were asked for.

    Raises:
        ConfigError: If one that was asked for has none, or none is left.
    """
    found: list[Engine] = []
    for engine in engines:
        try:
            subject.check(engine)
        except ConfigError:
            if subject.request.engines or (engine is engines[-1] and not found):
                raise
            continue
        found.append(engine)
    return found


def _subject(request: LedgerRequest) -> _Subject:
    bundle = request.bundle
    model = load_clean(bundle.float_graph)
    usual = {name: tuple(shapes[USUAL]) for name, shapes in bundle.manifest.shapes.items()}
    chosen = choose_shapes(model, request.shapes) if request.shapes else usual
    inputs = inputs_of(model)
    rows = {i.name: vocabulary_size(model, i.name) for i in inputs}
    batch = draw_shaped(inputs, chosen, rows, seed=0)
    attentions = [a.matmuls for a in find_attentions(model)]
    return _Subject(
        model=model,
        batch=batch,
        costs=costs_of(model, batch, attentions),
        attentions=attentions,
        threads=request.threads or default_threads(),
        request=request,
    )


def _of_engine(
    engine: Engine, subject: _Subject, peaks: Sequence[Peak], progress: Progress
) -> list[Ledger]:
    request, running = subject.request, subject.running(engine)
    bundle = request.bundle
    floats, int8 = engine.floats(), int8_configuration(engine)
    known = [peak.precision for peak in peaks]
    accounted = [c for c in floats if c.rest in known]
    accounted += [int8] if int8 is not None and "int8" in known else []
    with tempfile.TemporaryDirectory(prefix="trueint8-") as scratch:
        opened = {c: _path(bundle, engine, c) for c in accounted}
        if int8 in opened:
            opened[_SIMULATED] = _simulated(bundle, engine, Path(scratch))
        paths = {
            c: (compiled_once(engine, path, c, running, Path(scratch) / c.name), c)
            for c, path in opened.items()
        }
        with progress.step(f"time {engine.name}", total=request.rounds) as advance:
            times = time_interleaved_sessions(
                engine,
                paths,
                running,
                subject.batch,
                rounds=request.rounds,
                round_ms=request.round_ms,
                advance=advance,
            )
        ledgers = []
        with progress.step(f"dispatch {engine.name}", total=len(accounted)) as advance:
            for c in accounted:
                ledgers.append(_ledger(engine, c, paths[c][0], subject, running, times[c], peaks))
                advance(1)
    return _with_speed_ups(ledgers, dict(zip(accounted, ledgers, strict=True)), times, subject)


def _path(bundle: Bundle, engine: Engine, configuration: Configuration) -> Path:
    if configuration.graph == "float" and not engine.runs_checkpoint:
        return bundle.float_graph
    return bundle.engine_folder(engine.name)


def _simulated(bundle: Bundle, engine: Engine, scratch: Path) -> Path:
    """Return what the engine opens to compute the Q/DQ graph in float."""
    if engine.runs_checkpoint:
        return bundle.engine_folder(engine.name)
    model = load_clean(bundle.quantized_graph(engine.name))
    Simulate()(model)
    path = scratch / "simulated.onnx"
    save_model(model, path)
    return path


def _dispatch(
    engine: Engine,
    path: Path,
    configuration: Configuration,
    running: Running,
    subject: _Subject,
    kernels: int,
    times: SessionTimes,
) -> Dispatch:
    if has_plans(engine):
        return beside_device(times)
    request = subject.request
    rounds, round_ms = request.rounds, request.round_ms
    if engine.runs_checkpoint:
        small = subject.small()
        return measure_small_calls(
            engine, path, configuration, running, small, rounds=rounds, round_ms=round_ms
        )
    inputs = inputs_of(subject.model)
    return measure_line(
        engine, configuration, running, subject.batch, times.outputs, inputs,
        rounds=rounds, round_ms=round_ms,
    ).of(kernels)  # fmt: skip


def _ledger(
    engine: Engine,
    configuration: Configuration,
    path: Path,
    subject: _Subject,
    running: Running,
    times: SessionTimes,
    peaks: Sequence[Peak],
) -> Ledger:
    precision: PeakPrecision = "int8" if configuration.graph == "int8" else configuration.rest
    size = bytes_in(subject.costs, precision)
    if has_plans(engine):
        rate, copied = measure_device_copies(open_device(), size)
    else:
        rate, copied = measure_copies(size, running.threads)
    peak = next(p for p in peaks if p.precision == precision)
    roof = Roof(precision, peak.macs_per_s, rate)
    kernels = engine.audit(
        path, configuration, running, returned(subject.request.bundle, engine.name)
    )
    timed = Timed(
        kernels=kernels,
        times_ns=times.kernels_ns,
        ceilings_ns={cost.name: roof.ceiling_ns(cost) for cost in subject.costs},
        attentions=subject.attentions,
        precision=precision,
    )
    dispatch = _dispatch(engine, path, configuration, running, subject, len(kernels), times)
    parts = parts_of(timed, dispatch)
    not_found = timed.not_found()
    ceiling = sum(t for n, t in timed.ceilings_ns.items() if n not in not_found) / 1e6
    latency = median_ms(times.rounds_ns)
    return Ledger(
        engine=engine.name,
        configuration=configuration.name,
        precision=precision,
        shapes={name: list(array.shape) for name, array in subject.batch.items()},
        threads=running.threads,
        latency=Interval(value=latency.value, low=latency.low, high=latency.high),
        ceiling_ms=ceiling,
        parts=parts,
        unexplained_ms=latency.value - ceiling - sum(part.ms for part in parts),
        profiled_ms=quantile_ms(times.profiled_ns, 50),
        macs=sum(cost.macs for cost in subject.costs),
        bytes=size,
        not_found=not_found,
        speed_ups=[],
        probe=Probe(
            peaks=list(peaks), bytes_per_s=rate, copied_bytes=copied, threads=running.threads
        ),
    )


def _with_speed_ups(
    ledgers: Sequence[Ledger],
    of: Mapping[Configuration, Ledger],
    times: Mapping[Configuration, SessionTimes],
    subject: _Subject,
) -> list[Ledger]:
    """Add what was predicted, simulated and measured of each against FP32, the first."""
    base, *_ = of
    floats = [c for c in of if c.graph == "float"]
    fastest = min(floats, key=lambda c: times[c].latency_ns)
    found = []
    for configuration, ledger in of.items():
        speed_ups = [*_predicted(of[base], ledger)]
        if configuration.graph == "int8":
            speed_ups.append(_timed(Kind.SIMULATED, times[base], times[_SIMULATED]))
        speed_ups.append(_timed(Kind.MEASURED, times[base], times[configuration]))
        if configuration.graph == "int8" and fastest is not base:
            further = _timed(Kind.MEASURED, times[fastest], times[configuration])
            speed_ups.append(
                further.model_copy(update={"source": "fastest float", "baseline": fastest.name})
            )
        found.append(ledger.model_copy(update={"speed_ups": speed_ups}))
    return found


def _predicted(base: Ledger, ledger: Ledger) -> Iterator[SpeedUp]:
    peaks = {p.precision: p.macs_per_s for p in ledger.probe.peaks}
    moved = [side.bytes / side.probe.bytes_per_s for side in (base, ledger)]
    ratios: dict[SpeedUpSource, float] = {
        "bits": BITS[base.precision] / BITS[ledger.precision],
        "macs": peaks[ledger.precision] / peaks[base.precision],
        "bandwidth": moved[0] / moved[1],
        "ceiling": base.ceiling_ms / ledger.ceiling_ms,
    }
    for source, value in ratios.items():
        yield SpeedUp(source=source, kind=Kind.PREDICTED, value=value)


def _timed(kind: Kind, base: SessionTimes, other: SessionTimes) -> SpeedUp:
    found = speed_up(base.rounds_ns, other.rounds_ns)
    return SpeedUp(
        source="simulated" if kind is Kind.SIMULATED else "measured",
        kind=kind,
        value=found.value,
        low=found.low,
        high=found.high,
    )
