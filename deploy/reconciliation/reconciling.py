"""Three arms on identical samples, layer by layer, and the first layer where two part."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from deploy.bundle import GOLDEN, Bundle
from deploy.golden import read_golden
from deploy.hardware import default_threads
from deploy.profiling.evaluation import EvaluationSet, output_vectors
from deploy.profiling.evaluation import Run as ScoredRun
from deploy.profiling.scoring import DROP_UNIT, METRIC_OF, Scores, drop, mcnemar, score
from deploy.reconciliation.alone import AloneChecks, alone_checks, places_of
from deploy.reconciliation.arms import (
    TORCH_ENGINE,
    Arm,
    Arrays,
    engine_arm,
    examined_engine,
    module_arm,
)
from deploy.reconciliation.closeness import Closeness, Comparison
from deploy.reconciliation.layers import Layer, layers_of
from deploy.reconciliation.outcome import (
    ENGINE,
    FLOAT,
    SIMULATED,
    TORCH,
    ArmScore,
    LayerRow,
    Reconciliation,
)
from deploy.reconciliation.splicing import tapped_graph
from deploy.sessions import Configuration, Session
from deploy.verification import accepted_batches, holds_logits
from export.onnx_file import load_clean
from export.reference import Run, open_reference
from trueint8.errors import RunError
from trueint8.kinds import Kind
from trueint8.progress import Progress

PAIRS = (
    (SIMULATED, ENGINE),
    (FLOAT, SIMULATED),
    (FLOAT, ENGINE),
    (SIMULATED, TORCH),
    (TORCH, ENGINE),
)
"""What is compared: the reference, and the arm beside it."""

Places = Mapping[str, Mapping[str, tuple[str, str]]]
"""By arm and layer: its value in the Q/DQ graph, and in the float graph."""


@dataclass(frozen=True, slots=True)
class _Open:
    """Everything that runs."""

    shipped: Session
    simulated: Run
    floating: Run
    arms: Mapping[str, Arm]
    alone: Mapping[str, AloneChecks]
    places: Places
    outputs: Sequence[str]


def reconcile(
    bundle: Bundle, name: str, data: EvaluationSet | None, progress: Progress
) -> Reconciliation:
    """Compare an engine, its Q/DQ graph in float arithmetic, and fake-quantized modules.

    Args:
        bundle: Holds the engine; its modules too if ``torch-int8`` is in it.
        name: Of the engine.
        data: None takes the bundle's golden inputs, and no metric.
        progress: Where progress is shown.

    Raises:
        RunError: If the engine has no INT8 here, or its layers cannot be looked into.
    """
    engine, configuration = examined_engine(bundle, name)
    graph = bundle.path / bundle.manifest.engines[name].graph
    layers = layers_of(load_clean(graph), [m.name for m in bundle.manifest.matmuls])
    absent = _absent(bundle, graph)
    golden = read_golden(bundle.path / GOLDEN).inputs if data is None else {}
    batches = data.batches if data is not None else accepted_batches(bundle.manifest, golden)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trueint8-")))
        with progress.step(f"open {name} with taps"):
            running = bundle.running(name, default_threads())
            folder = bundle.engine_folder(name)
            shipped = stack.enter_context(closing(engine.open(folder, configuration, running)))
            opening = partial(engine_arm, bundle, engine, configuration, layers, scratch)
            arm = stack.enter_context(opening())
            if not engine.runs_checkpoint and not _faithful(arm, shipped, bundle, name, batches[0]):
                arm = stack.enter_context(opening(split=False))
            arms = {ENGINE: arm}
            if not absent:
                fake = Configuration("simulated", "fp32")
                arms[TORCH] = stack.enter_context(module_arm(bundle, TORCH, fake, layers))
            opened = _opened(stack, shipped, arms, layers, graph, bundle)
        comparing = _Comparing(bundle, opened)
        with progress.step("compare the arms", total=len(batches)) as advance:
            for batch in batches:
                comparing.add(batch)
                advance(1)
        scores: list[ArmScore] = []
        if data is not None:
            with progress.step("score the arms"):
                scores = list(_scored(_scored_runs(stack, bundle, opened), data))
    count = sum(len(next(iter(b.values()))) for b in batches)
    metric = METRIC_OF[data.target] if data is not None else None
    return Reconciliation(
        engine=name,
        configuration=configuration.name,
        rest=configuration.rest,
        samples=count,
        data="golden inputs" if data is None else "evaluation data",
        kinds={SIMULATED: Kind.SIMULATED, **{n: a.kind for n, a in arms.items()}},
        notes={n: a.note for n, a in arms.items()},
        tapped_db=comparing.tapped.sqnr_db,
        absent={TORCH: absent} if absent else {},
        outputs=comparing.output_figures(),
        layers=comparing.rows([layer.name for layer in layers]),
        unseen={
            n: [m.name for m in bundle.manifest.matmuls if m.name not in a.values]
            for n, a in arms.items()
        },
        metric=metric,
        drop_unit=DROP_UNIT[metric] if metric is not None else None,
        scores=scores,
    )


def _faithful(arm: Arm, shipped: Session, bundle: Bundle, name: str, batch: Arrays) -> bool:
    """Return whether an engine with taps still computes what it does without.

    Its outputs must be nearer to those of the engine as shipped than the Q/DQ graph's are to the
    float graph's. OpenVINO computes something else where products of INT8 attention are outputs.
    """
    taps, whole, mask = arm.run(batch, {}), shipped.run(batch), batch.get("attention_mask")
    graph = bundle.path / bundle.manifest.engines[name].graph
    with (
        open_reference(tapped_graph(graph, [])) as simulated,
        open_reference(bundle.calibrated_graph) as floating,
    ):
        quantized, floats = simulated(batch), floating(batch)
    tapped, noise = Comparison(), Comparison()
    for output in floats:
        tapped.add(whole[output], taps[output], mask)
        noise.add(floats[output], quantized[output], mask)
    return tapped.sqnr_db >= noise.sqnr_db


def _absent(bundle: Bundle, graph: Path) -> str:
    """Return why there are no fake-quantized modules, or ""."""
    entry = bundle.manifest.engines.get(TORCH_ENGINE)
    if entry is None:
        return (
            f"the bundle holds no {TORCH_ENGINE}, whose modules are fake-quantized; build it from "
            f"a checkpoint with --engine openvino,{TORCH_ENGINE}"
        )
    if entry.graph != graph.name:
        return f"{TORCH_ENGINE} was built from {entry.graph}, this engine from {graph.name}"
    return ""


def _opened(
    stack: ExitStack,
    shipped: Session,
    arms: Mapping[str, Arm],
    layers: Sequence[Layer],
    graph: Path,
    bundle: Bundle,
) -> _Open:
    float_graph = bundle.calibrated_graph
    outputs = [str(o.name) for o in load_clean(graph).graph.outputs]
    places = {name: places_of(arm, layers, outputs) for name, arm in arms.items()}
    taps = [tap for found in places.values() for tap in found.values()]
    alone = {
        name: stack.enter_context(alone_checks(arm, layers, graph, float_graph, outputs))
        for name, arm in arms.items()
    }
    whole = tapped_graph(graph, [value for value, _ in taps])
    original = tapped_graph(float_graph, [floating for _, floating in taps])
    simulated, floating = (stack.enter_context(open_reference(m)) for m in (whole, original))
    return _Open(shipped, simulated, floating, arms, alone, places, outputs)


class _Comparing:
    """The sums of every pair at every place."""

    def __init__(self, bundle: Bundle, opened: _Open) -> None:
        self._open = opened
        self.tapped = Comparison()
        names = (FLOAT, SIMULATED, *opened.arms)
        self._pairs = [pair for pair in PAIRS if set(pair) <= set(names)]
        logits = {o: holds_logits(bundle.manifest, o, opened.outputs) for o in opened.outputs}
        self._outputs = {
            o: {p: Comparison(logits=logits[o]) for p in self._pairs} for o in opened.outputs
        }
        self._layers: dict[str, dict[tuple[str, str], Comparison]] = {}

    def add(self, batch: Arrays) -> None:
        """Run every arm on a batch.

        Raises:
            RunError: If the engine is of another model.
        """
        opened, mask = self._open, batch.get("attention_mask")
        simulated, floats = opened.simulated(batch), opened.floating(batch)
        given = {name: arm.run(batch, simulated) for name, arm in opened.arms.items()}
        for name, arm in opened.arms.items():
            _check_shapes(name, arm, given[name], simulated, opened.outputs)
            opened.alone[name].add(batch, given[name], mask)
        whole = opened.shipped.run(batch)
        every = {FLOAT: floats, SIMULATED: simulated, **given}
        self._add_layers(every, mask)
        for output in opened.outputs:
            self.tapped.add(whole[output], given[ENGINE][output], mask)
            ends = {name: values[output] for name, values in every.items()}
            ends[ENGINE] = whole[output]
            for pair, sums in self._outputs[output].items():
                sums.add(ends[pair[0]], ends[pair[1]], mask)

    def _add_layers(self, every: Mapping[str, Arrays], mask: np.ndarray | None) -> None:
        for layer, pair, values in self._compared():
            sums = self._layers.setdefault(layer, {}).setdefault(pair, Comparison())
            sums.add(every[pair[0]][values[0]], every[pair[1]][values[1]], mask)

    def _compared(self) -> Iterator[tuple[str, tuple[str, str], tuple[str, str]]]:
        """Yield every layer with every pair that has the same value of it, and its names."""
        places = self._open.places
        for pair in self._pairs:
            examined = [places[arm] for arm in pair if arm in places] or [places[ENGINE]]
            for layer, tap in examined[0].items():
                if all(found.get(layer) == tap for found in examined):
                    value, floating = tap
                    yield layer, pair, (floating if pair[0] == FLOAT else value, value)

    def output_figures(self) -> dict[str, dict[str, Closeness]]:
        """Return the figures of every output by pair."""
        return {o: _figures(sums) for o, sums in self._outputs.items()}

    def rows(self, order: Sequence[str]) -> list[LayerRow]:
        """Return the layers that any arm shows, in an order, then outputs beside them."""
        checks = {name: alone.results() for name, alone in self._open.alone.items()}
        seen = [name for name in order if name in self._layers]
        seen += [name for name in self._layers if name not in seen]
        return [
            LayerRow(
                layer=name,
                pairs=_figures(self._layers[name]),
                checks={arm: found[name] for arm, found in checks.items() if name in found},
            )
            for name in seen
        ]


def _figures(sums: Mapping[tuple[str, str], Comparison]) -> dict[str, Closeness]:
    return {
        "/".join(pair): one.result(Kind.MEASURED if ENGINE in pair else Kind.SIMULATED)
        for pair, one in sums.items()
    }


def _check_shapes(
    name: str, arm: Arm, given: Arrays, simulated: Arrays, outputs: Sequence[str]
) -> None:
    for value in (*arm.values.values(), *outputs):
        shape = given[value].shape if value in given else None
        if shape != simulated[value].shape:
            raise RunError(
                f"the {name} gives {value!r} of shape {shape or 'none at all'}, the Q/DQ graph "
                f"{simulated[value].shape}",
                fix="the engine's files are of another model; build the bundle again",
            )


def _scored_runs(stack: ExitStack, bundle: Bundle, opened: _Open) -> dict[str, ScoredRun]:
    """Return by arm what the metric is computed of."""
    reference = stack.enter_context(open_reference(bundle.float_graph))

    def simulated(batch: Arrays) -> dict[str, np.ndarray]:
        return opened.simulated(batch, opened.outputs)

    found: dict[str, ScoredRun] = {FLOAT: reference, SIMULATED: simulated}
    if TORCH in opened.arms:
        arm = opened.arms[TORCH]

        def modules(batch: Arrays) -> dict[str, np.ndarray]:
            given = arm.run(batch, opened.simulated(batch))
            return {name: given[name] for name in opened.outputs}

        found[TORCH] = modules
    return found | {ENGINE: opened.shipped.run}


def _scored(runs: Mapping[str, ScoredRun], data: EvaluationSet) -> Iterator[ArmScore]:
    expected = output_vectors(runs[FLOAT], data) if data.target == "cosine" else None
    scores: dict[str, Scores] = {n: score(run, data, expected) for n, run in runs.items()}
    floating, simulated = scores[FLOAT], scores[SIMULATED]
    for name, found in scores.items():
        compared = name != FLOAT
        yield ArmScore(
            arm=name,
            kind=Kind.MEASURED if name in (FLOAT, ENGINE) else Kind.SIMULATED,
            value=found.value,
            lost=drop(floating, found) if compared else None,
            lost_to_simulated=drop(simulated, found) if name in (TORCH, ENGINE) else None,
            mcnemar=mcnemar(floating, found) if compared and found.metric == "accuracy" else None,
        )
