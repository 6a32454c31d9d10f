"""Per matmul, attention and convolution: quantized? executed in what, by which kernel?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from calib.qdq_reading import Kind as Product
from calib.qdq_reading import Reading, read_qdq
from deploy import bundle as layout
from deploy.audit_reasons import Finding, other_numbers, why_float, why_loose, why_refused
from deploy.bundle import Bundle
from deploy.compatibility import check_engine
from deploy.engines import ENGINES
from deploy.golden import read_golden
from deploy.hardware import default_threads
from deploy.kernels import Kernel, executed_precisions
from deploy.profiling.results import Coverage
from deploy.sessions import Configuration, Engine, Graph, Running, Session
from export.onnx_file import load_clean
from trueint8.errors import UnknownName
from trueint8.kinds import Kind

REFUSED = "refused"
"""What is said of every matmul of a graph that an engine does not take."""

FLOAT_MODEL = "this engine runs the float model"

PROFILED_RUNS = 20


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One matmul, convolution or attention operator on one engine."""

    matmul: str
    weighted: bool
    macs: int
    reason: str
    """Why not both of its operands carry Q/DQ; empty where they do."""
    executed: str
    """``int8``, a float precision, ``fused``, ``not found`` or ``refused``."""
    kind: Product = "matmul"
    qdq: str = ""
    """How each operand, the output and the bias are quantized in the graph."""
    kernel: str = ""
    """The engine's word for the code that executes it."""
    why: str = ""
    """Where it carries Q/DQ and is not executed in INT8: why."""
    time_ns: float | None = None
    """Of one run; its share by multiply-accumulates, where its kernel executes others as well."""


@dataclass(frozen=True, slots=True)
class AttentionLine:
    """One attention: whether one kernel executes both of its matmuls, and in what."""

    matmuls: tuple[str, ...]
    fused: bool
    executed: str
    kernel: str
    why: str
    """Where it is quantized and not fused: why."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What kernels took, apart from any run that latency is measured in."""

    shapes: Mapping[str, tuple[int, ...]]
    runs: int
    threads: int
    times_ns: Mapping[str, float]
    """Per run, by kernel."""


@dataclass(frozen=True, slots=True)
class Audit:
    """All products of a graph on one engine. ``kind`` is BUILT where the engine cannot run here."""

    engine: str
    kind: Kind
    lines: list[AuditLine]
    uncounted: dict[str, int]
    """Operators whose multiply-accumulates are not known."""
    kernels: list[Kernel] = field(default_factory=list)
    attentions: list[AttentionLine] = field(default_factory=list)
    profile: Profile | None = None
    refused: str = ""
    """The engine's words, where it does not take the graph."""
    notes: list[str] = field(default_factory=list)
    """What else is worth knowing, a sentence each."""

    def coverage(self) -> Coverage | None:
        """Return the share of multiply-accumulates run with two INT8 operands.

        None if the graph holds operators that cannot be counted, or the engine refuses it.
        """
        if self.uncounted or self.refused:
            return None
        int8 = [line for line in self.lines if line.executed == "int8"]
        return Coverage(
            int8_macs=sum(line.macs for line in int8),
            total_macs=sum(line.macs for line in self.lines),
            int8_matmuls=len(int8),
            weight_matmuls=sum(line.weighted for line in self.lines),
            matmuls=len(self.lines),
        )

    def missed(self) -> list[AuditLine]:
        """Return those that carry Q/DQ somewhere and do not run in INT8."""
        return [line for line in self.lines if line.why]

    def of_kind(self, kind: str) -> list[Kernel]:
        """Return the kernels of a kind, such as ``quantize``."""
        return [kernel for kernel in self.kernels if kernel.kind == kind]

    def time_ns(self, wanted: Callable[[Kernel], bool] = lambda _: True) -> float | None:
        """Return what some kernels took in one run, or None where nothing was profiled."""
        if self.profile is None:
            return None
        return sum(self.profile.times_ns.get(k.name, 0.0) for k in self.kernels if wanted(k))


@dataclass(frozen=True, slots=True)
class Counted:
    """One product of a float graph, as it is known before any engine sees it."""

    name: str
    weighted: bool
    macs: int
    reason: str
    kind: Product = "matmul"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is audited.

    Attributes:
        products: All of them.
        readings: How each is quantized, by name.
        uncounted: Operators whose multiply-accumulates are not known.
        longest: Most tokens that the engine must accept.
    """

    products: Sequence[Counted]
    readings: Mapping[str, Reading]
    uncounted: dict[str, int]
    longest: int


def judge(
    engine: Engine, kernels: Sequence[Kernel], subject: Subject, profile: Profile | None
) -> Audit:
    """Set what an engine says it executes beside what the graph says."""
    floats = {p.name for p in subject.products if p.reason}
    names = {p.name: "" for p in subject.products}
    executed = executed_precisions(kernels, names, floats)
    of = {name: kernel for kernel in kernels for name in kernel.matmuls}
    times = _times(subject.products, kernels, profile)
    lines = []
    for product in subject.products:
        reading, kernel = subject.readings.get(product.name), of.get(product.name)
        finding = Finding(engine.name, executed[product.name], kernel, subject.longest)
        lines.append(
            AuditLine(
                matmul=product.name,
                weighted=product.weighted,
                macs=product.macs,
                reason=product.reason,
                executed=executed[product.name],
                kind=product.kind,
                qdq=str(reading) if reading is not None and reading.extent != "none" else "",
                kernel=kernel.implementation if kernel is not None else "",
                why=why_float(reading, finding) if reading is not None else "",
                time_ns=times.get(product.name),
            )
        )
    return Audit(
        engine=engine.name,
        kind=Kind.MEASURED if engine.runs_here else Kind.BUILT,
        lines=lines,
        uncounted=subject.uncounted,
        kernels=list(kernels),
        attentions=_attentions(engine, of, executed, subject),
        profile=profile,
        notes=other_numbers(list(subject.readings.values()), engine.name),
    )


def _times(
    products: Sequence[Counted], kernels: Sequence[Kernel], profile: Profile | None
) -> dict[str, float]:
    """Return the time of each product: its share of its kernel's, by multiply-accumulates."""
    if profile is None:
        return {}
    macs = {p.name: p.macs for p in products}
    found = {}
    for kernel in kernels:
        whole = sum(macs.get(name, 0) for name in kernel.matmuls)
        for name in kernel.matmuls:
            share = macs.get(name, 0) / whole if whole else 1 / len(kernel.matmuls)
            found[name] = profile.times_ns.get(kernel.name, 0.0) * share
    return found


def _attentions(
    engine: Engine, of: Mapping[str, Kernel], executed: Mapping[str, str], subject: Subject
) -> list[AttentionLine]:
    """Return every attention of two matmuls, and every attention that is one operator."""
    pairs = {r.attention: r for r in subject.readings.values() if r.attention}
    single = {(r.name,): r for r in subject.readings.values() if r.kind == "attention"}
    found = []
    for names, reading in (pairs | single).items():
        kernel = of.get(names[-1])
        fused = kernel is not None and set(names) <= {*kernel.matmuls} and kernel.kind != "matmul"
        finding = Finding(engine.name, executed.get(names[-1], ""), kernel, subject.longest)
        found.append(
            AttentionLine(
                matmuls=names,
                fused=fused,
                executed=finding.executed,
                kernel=kernel.implementation if kernel is not None else "",
                why="" if fused else why_loose(reading, finding),
            )
        )
    return found


def audit_engine(bundle: Bundle, name: str, *, profiled: bool = False) -> Audit:
    """Read back from an engine of a bundle what it executes.

    Args:
        bundle: Holds the engine.
        name: Of the engine.
        profiled: Whether the golden inputs are run to time its kernels, if it runs here.

    Raises:
        UnknownName: If the bundle has no such engine.
        RunError: If its files do not fit this machine.
    """
    engine = engine_of(bundle, name)
    graph: Graph = "float" if engine.int8_rest() is None else "int8"
    configuration = Configuration(graph, bundle.manifest.engines[name].rest)
    subject = subject_of(bundle, name)
    if graph == "float":
        floats = [replace(p, reason=FLOAT_MODEL) for p in subject.products]
        subject = replace(subject, products=floats, readings={})
    running = bundle.running(name, default_threads())
    path = bundle.engine_folder(name)
    kernels = engine.audit(path, configuration, running, returned(bundle, name))
    profile = None
    if profiled and bundle.manifest.engines[name].runs_here:
        golden = read_golden(bundle.path / layout.GOLDEN).inputs
        profile = profile_kernels(engine, path, configuration, running, golden)
    return judge(engine, kernels, subject, profile)


def engine_of(bundle: Bundle, name: str) -> Engine:
    """Return an engine that a bundle has.

    Raises:
        UnknownName: If it has no such engine.
        RunError: If its files do not fit this machine.
    """
    if name not in bundle.manifest.engines:
        raise UnknownName(
            f"{bundle.path} has no engine {name!r}",
            fix=f"choose one of: {', '.join(bundle.manifest.engines)}",
        )
    engine: Engine = ENGINES.load(name)
    if engine.runs_here:
        check_engine(bundle, name)
    return engine


def returned(bundle: Bundle, name: str) -> dict[str, str]:
    """Return every matmul of a bundle with the graph output it gives, or ""."""
    return {m.name: m.returns for m in bundle.manifest.matmuls_of(name)}


def subject_of(bundle: Bundle, name: str) -> Subject:
    """Return what the graph that an engine of a bundle was built from holds."""
    readings = {r.name: r for r in read_qdq(load_clean(bundle.quantized_graph(name)))}
    products = [
        Counted(m.name, m.weighted, m.macs, m.reason, readings[m.name].kind)
        if m.name in readings
        else Counted(m.name, m.weighted, m.macs, m.reason)
        for m in bundle.manifest.matmuls_of(name)
    ]
    largest = [shape for *_, shape in bundle.manifest.shapes.values() if len(shape) > 1]
    longest = max((shape[1] for shape in largest), default=0)
    return Subject(products, readings, bundle.manifest.uncounted, longest)


def profile_kernels(
    engine: Engine,
    path: Path,
    configuration: Configuration,
    running: Running,
    batch: Mapping[str, np.ndarray],
) -> Profile:
    """Time every kernel, in a session of its own: timing slows what it times.

    Raises:
        RunError: If the engine fails.
    """
    with engine.open(path, configuration, replace(running, profiled=True)) as session:
        for _ in range(PROFILED_RUNS):
            session.run(batch)
        return profile_of(session, batch, running.threads)


def profile_of(session: Session, batch: Mapping[str, np.ndarray], threads: int) -> Profile:
    """Return what a profiled session timed in :data:`PROFILED_RUNS` runs of a batch."""
    return Profile(
        shapes={name: array.shape for name, array in batch.items()},
        runs=PROFILED_RUNS,
        threads=threads,
        times_ns=session.kernel_times(),
    )


def refused(engine: Engine, subject: Subject, error: str) -> Audit:
    """Return the audit of an engine that does not take a graph, in its own words and plain ones."""
    return Audit(
        engine=engine.name,
        kind=Kind.MEASURED if engine.runs_here else Kind.BUILT,
        lines=[
            AuditLine(
                matmul=p.name,
                weighted=p.weighted,
                macs=p.macs,
                reason=p.reason,
                executed=REFUSED,
                kind=p.kind,
                qdq=str(subject.readings[p.name]),
            )
            for p in subject.products
        ],
        uncounted=subject.uncounted,
        refused=error,
        notes=why_refused(subject.readings.values(), engine.name),
    )
