"""A graph from anywhere, built with each engine in a scratch folder and audited there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from calib.collector import value_shapes
from calib.qdq_reading import Reading, read_qdq
from deploy.audit import Audit, Counted, Subject, judge, refused
from deploy.drawn_inputs import draw_shaped
from deploy.engines import ENGINES
from deploy.examining import Answer, Question, examine_apart
from deploy.graph_shapes import choose_shapes, inputs_of, profile_shapes
from deploy.sessions import Engine, Shapes, int8_configuration
from export.matmuls import vocabulary_size
from export.onnx_file import load_as_found, save_model
from export.other_operators import uncounted_operators
from export.passes.drop_qdq import DropQdq
from export.passes.name_products import NameProducts
from export.products import operands_of, product_macs, products
from trueint8.errors import ConfigError, ExportError, MissingDependency
from trueint8.progress import Progress

NO_QDQ = "carries no Q/DQ"
SOME_QDQ = "not both operands carry Q/DQ"


@dataclass(frozen=True, slots=True)
class FoundGraph:
    """A graph that was read, with names that can be found again, and what it is run with."""

    model: ir.Model
    subject: Subject
    shapes: Shapes
    batch: Mapping[str, np.ndarray]


def read_graph(path: Path, given: Mapping[str, tuple[int, ...]]) -> FoundGraph:
    """Read a graph, how it is quantized, and what its products cost at the given shapes.

    Args:
        path: Any ONNX file.
        given: Shapes by input; the others are chosen.

    Raises:
        ExportError: If it cannot be read, or holds no product.
        ConfigError: If the shapes do not fit.
        RunError: If its float arithmetic does not run at these shapes.
    """
    model = load_as_found(path)
    for rewrite in (
        common.InlinePass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveInitializersFromInputsPass(),
        NameProducts(),
        common.ShapeInferencePass(),
    ):
        rewrite(model)
    if not products(model):
        raise ExportError(
            f"{path} holds no MatMul, Gemm, Conv or Attention", fix="pass a model that multiplies"
        )
    chosen = choose_shapes(model, given)
    inputs = inputs_of(model)
    rows = {i.name: vocabulary_size(model, i.name) for i in inputs}
    batch = draw_shaped(inputs, chosen, rows, seed=0)
    readings = {r.name: r for r in read_qdq(model)}
    macs = _macs(model, batch)
    unknown = [name for name, count in macs.items() if count is None]
    uncounted = uncounted_operators(model)
    if "Attention" in uncounted:
        uncounted["Attention"] -= sum(
            r.kind == "attention" and macs[r.name] is not None for r in readings.values()
        )
    return FoundGraph(
        model=model,
        subject=Subject(
            products=[_counted(r, macs[r.name] or 0) for r in readings.values()],
            readings=readings,
            uncounted={k: n for k, n in uncounted.items() if n} | dict.fromkeys(unknown, 1),
            longest=max((s[1] for s in chosen.values() if len(s) > 1), default=0),
        ),
        shapes=profile_shapes(model, chosen),
        batch=batch,
    )


def _counted(reading: Reading, macs: int) -> Counted:
    reasons = {"both": "", "partly": SOME_QDQ, "none": NO_QDQ}
    return Counted(reading.name, reading.weighted, macs, reasons[reading.extent], reading.kind)


def _macs(model: ir.Model, batch: Mapping[str, np.ndarray]) -> dict[str, int | None]:
    """Return what each product costs, from the shapes of a run without Q/DQ."""
    bare = model.clone()
    DropQdq()(bare)
    nodes = products(bare)
    values = [v for node in nodes for v in (*operands_of(node), node.outputs[0])]
    shapes = value_shapes(bare, [str(v.name) for v in values], batch)
    return {str(node.name): product_macs(node, shapes) for node in nodes}


def graph_engines(wanted: Sequence[str]) -> list[str]:
    """Return the engines that a graph is built with: those wanted, or ``all`` that can be.

    That are all that are installed and take a graph rather than a checkpoint.

    Raises:
        UnknownName: If there is no engine of that name.
        MissingDependency: If a wanted one is not installed.
        ConfigError: If a wanted one takes no graph, or none is installed.
    """
    if wanted and list(wanted) != ["all"]:
        for name in wanted:
            engine: Engine = ENGINES.load(name)
            engine.version()
            if not _takes_graphs(engine):
                raise ConfigError(
                    f"the engine {name} runs checkpoints, not graphs",
                    fix="build a bundle of the checkpoint with it, and inspect that",
                )
        return list(wanted)
    found = [name for name in ENGINES.names() if _usable(ENGINES.load(name))]
    if not found:
        raise ConfigError("no engine is installed", fix="pip install 'trueint8[cpu]'")
    return found


def _takes_graphs(engine: Engine) -> bool:
    return not engine.runs_checkpoint and int8_configuration(engine) is not None


def _usable(engine: Engine) -> bool:
    try:
        engine.version()
    except MissingDependency:
        return False
    return _takes_graphs(engine)


def audit_graph(
    found: FoundGraph,
    engines: Sequence[str],
    progress: Progress,
    *,
    profiled: bool = False,
    ask: Callable[[str, Question], Answer] = examine_apart,
) -> list[Audit]:
    """Build a graph with each engine and return what each executes, or that it refuses.

    Args:
        found: The graph.
        engines: Names of those that are installed.
        progress: Where progress is shown.
        profiled: Whether kernels are timed on drawn inputs, where the engine runs here.
        ask: How each is asked; in a process of its own unless told otherwise.
    """
    audits = []
    with tempfile.TemporaryDirectory(prefix="trueint8-") as scratch:
        source = Path(scratch) / "graph.onnx"
        save_model(found.model, source)
        names = [p.name for p in found.subject.products]
        question = Question(source, names, found.shapes, found.batch, profiled)
        for name in engines:
            with progress.step(f"build and audit {name}"):
                audits.append(_judged(found.subject, name, ask(name, question)))
    return audits


def _judged(subject: Subject, name: str, answer: Answer) -> Audit:
    engine: Engine = ENGINES.load(name)
    if answer.refused:
        return refused(engine, subject, answer.refused)
    audit = judge(engine, answer.kernels, subject, answer.profile)
    return replace(audit, notes=[*audit.notes, *_as_it_stands(engine, subject, audit, answer)])


def _as_it_stands(engine: Engine, subject: Subject, built: Audit, answer: Answer) -> list[str]:
    """Return what the engine's library does with the file itself, where that is another share.

    An engine may rewrite a graph when it builds it, as ONNX Runtime's does with activations.
    """
    if answer.plain_refused:
        words = answer.plain_refused.splitlines()[0]
        return [f"opened as it stands, the graph is refused: {words}"]
    if answer.plain is None:
        return []
    was, now = judge(engine, answer.plain, subject, None).coverage(), built.coverage()
    if was is None or now is None or was.int8_macs == now.int8_macs:
        return []
    return [
        f"opened as it stands, the graph runs {was.share * 100:.1f} % of its MACs in INT8; "
        "`deploy build` rewrites Q/DQ into the form this engine takes"
    ]
