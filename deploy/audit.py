"""Per matmul: quantized in the graph? what precision does the engine execute it in?"""

from __future__ import annotations

from dataclasses import dataclass

from deploy.bundle import Bundle
from deploy.engines import ENGINES
from deploy.hardware import default_threads
from deploy.kernels import executed_precisions
from deploy.profiling.results import Coverage
from deploy.sessions import Configuration, Engine, Graph
from trueint8.errors import UnknownName
from trueint8.kinds import Kind


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One matmul on one engine."""

    matmul: str
    weighted: bool
    macs: int
    reason: str
    """Why it carries no Q/DQ; empty where it does."""
    executed: str
    """``int8``, a float precision, ``fused`` or ``not found``."""


@dataclass(frozen=True, slots=True)
class Audit:
    """All matmuls of a bundle on one engine. ``kind`` is BUILT where the engine cannot run here."""

    engine: str
    kind: Kind
    lines: list[AuditLine]
    uncounted: dict[str, int]
    """Operators whose multiply-accumulates are not known."""

    def coverage(self) -> Coverage | None:
        """Return the share of multiply-accumulates run with two INT8 operands.

        None if the graph holds operators that cannot be counted.
        """
        if self.uncounted:
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
        """Return matmuls that carry Q/DQ in the graph and do not run in INT8."""
        return [line for line in self.lines if not line.reason and line.executed != "int8"]


def audit_engine(bundle: Bundle, name: str) -> Audit:
    """Read back from an engine of a bundle what it executes.

    Raises:
        UnknownName: If the bundle has no such engine.
    """
    if name not in bundle.manifest.engines:
        raise UnknownName(
            f"{bundle.path} has no engine {name!r}",
            fix=f"choose one of: {', '.join(bundle.manifest.engines)}",
        )
    matmuls = bundle.manifest.matmuls_of(name)
    engine: Engine = ENGINES.load(name)
    names = {m.name: m.returns for m in matmuls}
    graph: Graph = "float" if engine.int8_rest() is None else "int8"
    kernels = engine.audit(
        bundle.engine_folder(name),
        Configuration(graph, bundle.manifest.engines[name].rest),
        bundle.running(name, default_threads()),
        names,
    )
    executed = executed_precisions(kernels, names, {m.name for m in matmuls if m.reason})
    return Audit(
        engine=name,
        kind=Kind.MEASURED if bundle.manifest.engines[name].runs_here else Kind.BUILT,
        uncounted=bundle.manifest.uncounted,
        lines=[AuditLine(m.name, m.weighted, m.macs, m.reason, executed[m.name]) for m in matmuls],
    )
