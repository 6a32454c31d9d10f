"""What quantizing each matmul alone, and each but one, does to the task's metric."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from calib.data import DATA_FIX
from deploy.bundle import Bundle, open_bundle
from deploy.engines import ENGINES
from deploy.manifest import Interval
from deploy.options import check_counts
from deploy.profiling.evaluation import EvaluationSet
from deploy.profiling.measurement import ProfileRequest, evaluation_data
from deploy.profiling.results import check_writable
from deploy.profiling.scoring import DROP_UNIT, Metric, Scores, drop, recovery, scores_from
from deploy.profiling.statistics import Estimate
from deploy.record import Record
from deploy.search.candidates import Evaluator, Open, open_on, open_simulated, quantized_from_bundle
from deploy.search.planning import measurable
from deploy.sessions import Engine
from trueint8.artifacts import sha256_tree, write_atomically
from trueint8.errors import ConfigError, DataError, RunError, UnknownName
from trueint8.kinds import Kind
from trueint8.progress import Progress
from trueint8.registry import did_you_mean

SCHEMA: Literal["trueint8/sensitivity/1"] = "trueint8/sensitivity/1"


class LayerEntry(Record):
    """One quantized matmul."""

    matmul: str
    macs: int
    alone: Interval = Field(description="Drop where only this matmul is quantized.")
    recovered: Interval = Field(
        description="Drop of the whole Q/DQ graph less the drop with this matmul in float."
    )


class SensitivityReport(Record):
    """All quantized matmuls of a bundle, the most sensitive first."""

    schema_: Literal["trueint8/sensitivity/1"] = Field(default=SCHEMA, alias="schema")
    request: dict[str, Any]
    kind: Kind = Field(description="Of every figure of a quantized graph.")
    engine: str = Field(description="That ran it; of a SIMULATED graph, the float reference.")
    metric: Metric
    drop_unit: str = Field(description="%: of perplexity; points: of accuracy or cosine.")
    sequences: int
    float_value: float = Field(description="The float graph's metric, MEASURED in FP32.")
    int8_value: float = Field(description="The whole Q/DQ graph's.")
    int8_drop: Interval
    layers: list[LayerEntry]


@dataclass(frozen=True, slots=True)
class SensitivityRequest:
    """What to rank, and on what.

    Attributes:
        profile: One bundle and evaluation data, and how much of it.
        engine: That measures; None simulates.
        out: The file to write.
        force: Replace what is at ``out``.
    """

    profile: ProfileRequest
    engine: str | None
    out: Path
    force: bool

    @property
    def bundle(self) -> Path:
        """The bundle folder."""
        return self.profile.bundles[0]


def measure_sensitivity(request: SensitivityRequest, progress: Progress) -> SensitivityReport:
    """Evaluate every placement of one matmul and of all but one, and write the ranking.

    What is known is kept beside ``request.out``; the same request goes on from there.

    Raises:
        ConfigError: If ``out`` is taken, or the bundle's graph is not of this version's form.
        DataError: If there is no data, or it does not fit the model.
        UnknownName: If the bundle has no such engine.
        RunError: If the engine cannot run here.
    """
    check_evaluation(request.profile, request.out, force=request.force)
    bundle = open_bundle(request.bundle)
    engine = _engine(bundle, request.engine)
    graphs = quantized_from_bundle(bundle)
    if not graphs.layers:
        raise ConfigError(
            f"{request.bundle} quantizes no matmul", fix="build it with fewer --keep-float"
        )
    with progress.step(f"read {request.profile.data.name}"):
        data = evaluation_data(request.profile, bundle)
    asked = _asked(request, bundle)
    kept = Known(request.out.with_name(f".{request.out.name}.partial"), asked, progress)
    with tempfile.TemporaryDirectory(prefix="trueint8-") as scratch:
        run: Open = open_simulated
        if engine is not None:
            run = open_on(engine, bundle.manifest.graph_inputs(), data.batches[0])
        evaluator = Evaluator(graphs, data, run, Path(scratch))
        _evaluate(evaluator, kept, progress)
    report = _report(asked, engine, data, graphs.macs, kept.scores)
    write_atomically(request.out, report.model_dump_json(by_alias=True, indent=1) + "\n")
    kept.path.unlink(missing_ok=True)
    return report


def check_evaluation(profile: ProfileRequest, out: Path, *, force: bool) -> None:
    """Refuse what cannot be evaluated, or a place that is taken, before any work.

    Raises:
        ConfigError: If no bundle is given, a count is below 1, or ``out`` is taken or in a bundle.
        DataError: If there is no data.
        StorageError: If ``out`` cannot be written.
    """
    check_counts(profile, ("samples", "batch_size", "seq_len"))
    if not profile.bundles:
        raise ConfigError("no bundle given", fix="pass a folder that `deploy build` wrote")
    if not profile.data.exists():
        raise DataError(f"no data at {profile.data}", fix=DATA_FIX)
    for bundle in profile.bundles:
        if out.resolve().is_relative_to(bundle.resolve()):
            raise ConfigError(
                f"-o {out} is inside the bundle, which takes no other files",
                fix="write beside it: -o FILE",
            )
    check_writable(out)
    if out.exists() and not force:
        raise ConfigError(f"{out} exists", fix="pass another -o, or --force to replace it")


class Known:
    """Scores by name, kept in a file after each; those of another request are left aside.

    Args:
        path: The file.
        asked: What decides the scores.
        progress: Gets a line where scores are taken over, or are not.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any], progress: Progress) -> None:
        self.path, self._asked = path, asked
        self.scores: dict[str, Scores] = {}
        if not path.is_file():
            return
        try:
            stored = json.loads(path.read_bytes())
            changed = [k for k in asked if stored["request"].get(k) != asked[k]]
            found = {k: scores_from(v) for k, v in stored["scores"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            progress.say(f"{path} is not readable: starting anew")
            return
        if changed:
            progress.say(f"{path} is of another request ({', '.join(changed)}): starting anew")
            return
        self.scores = found
        progress.say(f"going on after {len(found)} evaluations")

    def get(self, name: str, evaluate: Callable[[], Scores]) -> Scores:
        """Return the scores of that name, evaluating what is not known yet."""
        if name not in self.scores:
            self.scores[name] = evaluate()
            scores = {k: asdict(v) for k, v in self.scores.items()}
            write_atomically(self.path, json.dumps({"request": self._asked, "scores": scores}))
        return self.scores[name]


def rank(
    layers: Mapping[str, int], alone: Mapping[str, Estimate], recovered: Mapping[str, Estimate]
) -> list[str]:
    """Order matmuls by what leaving each in float recovers, the most first.

    Equal ones are ordered by their drop alone, then by their cost in float, the least first.

    Args:
        layers: Multiply-accumulates by name.
        alone: Drops with only this one quantized; may be empty.
        recovered: Drops recovered with only this one in float.
    """

    def key(name: str) -> tuple[float, float, int]:
        first = alone[name].value if name in alone else 0.0
        return -recovered[name].value, -first, layers[name]

    return sorted(layers, key=key)


def _engine(bundle: Bundle, name: str | None) -> Engine | None:
    if name is None:
        return None
    held = bundle.manifest.engines
    if name not in held:
        raise UnknownName(
            f"{bundle.path} holds no engine {name!r}",
            fix=f"{did_you_mean(name, held)}choose from: {', '.join(held)}",
        )
    engine: Engine = ENGINES.load(name)
    if not measurable(engine):
        why = "runs checkpoints, not graphs" if engine.runs_here else "cannot run on this machine"
        raise RunError(
            f"{name} {why}, so nothing can be measured on it",
            fix="leave out --engine to simulate, or choose an engine that runs here",
        )
    return engine


def _asked(request: SensitivityRequest, bundle: Bundle) -> dict[str, Any]:
    amount = request.profile
    return {
        "bundle": bundle.sha256,
        "data": sha256_tree(amount.data),
        "engine": request.engine,
        "samples": amount.samples,
        "batch-size": amount.batch_size,
        "seq-len": amount.seq_len,
        "seed": amount.seed,
    }


def _evaluate(evaluator: Evaluator, known: Known, progress: Progress) -> None:
    layers = evaluator.graphs.layers
    wanted: dict[str, Callable[[], Scores]] = {
        "float": evaluator.float_scores,
        "int8": lambda: evaluator.scores(()),
    }
    for layer in layers:
        others = [name for name in layers if name != layer]
        wanted[f"alone {layer}"] = lambda kept=others: evaluator.scores(kept)  # type: ignore[misc]
        wanted[f"without {layer}"] = lambda kept=(layer,): evaluator.scores(kept)  # type: ignore[misc]
    with progress.step("evaluate placements", total=len(wanted)) as advance:
        for name, evaluate in wanted.items():
            known.get(name, evaluate)
            advance(1)


def _report(
    asked: dict[str, Any],
    engine: Engine | None,
    data: EvaluationSet,
    macs: Mapping[str, int],
    scores: Mapping[str, Scores],
) -> SensitivityReport:
    reference, whole = scores["float"], scores["int8"]
    alone = {m: drop(reference, scores[f"alone {m}"]) for m in macs}
    recovered = {m: recovery(reference, whole, scores[f"without {m}"]) for m in macs}
    return SensitivityReport(
        request=asked,
        kind=Kind.SIMULATED if engine is None else Kind.MEASURED,
        engine="ONNX Runtime FP32" if engine is None else engine.name,
        metric=reference.metric,
        drop_unit=DROP_UNIT[reference.metric],
        sequences=data.count,
        float_value=reference.value,
        int8_value=whole.value,
        int8_drop=interval_from(drop(reference, whole)),
        layers=[
            LayerEntry(
                matmul=name,
                macs=macs[name],
                alone=interval_from(alone[name]),
                recovered=interval_from(recovered[name]),
            )
            for name in rank(macs, alone, recovered)
        ],
    )


def interval_from(estimate: Estimate) -> Interval:
    """Return an estimate as it is stored."""
    return Interval(value=estimate.value, low=estimate.low, high=estimate.high)
