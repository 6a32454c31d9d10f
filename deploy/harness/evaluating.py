"""Tasks of lm-evaluation-harness, answered by every configuration of bundles."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from calib.data import load_tokenizer
from deploy.audit import audit_engine
from deploy.bundle import Bundle, open_bundle
from deploy.compatibility import check_engine, missing_here
from deploy.hardware import default_threads, hardware, package_versions
from deploy.harness.adapter import BundleModel
from deploy.harness.continuations import ContinuationScorer, limits_of
from deploy.harness.figures import change, figure_of, flips
from deploy.harness.results import SCHEMA, ChangeEntry, TaskRow
from deploy.harness.tasks import Answers, TaskSet, answer_tasks, load_tasks, plain_value
from deploy.manifest import Interval
from deploy.sessions import Configuration, Engine, int8_configuration
from deploy.sides import Side
from export.onnx_file import load_clean, save_model
from export.passes.simulate import Simulate
from trueint8.errors import ConfigError, RunError, UnknownName
from trueint8.kinds import Kind
from trueint8.progress import Progress
from trueint8.registry import did_you_mean

USUAL = ("float-fp32", "simulated-fp32", "int8")
"""Configurations that are evaluated unless others are asked for."""


@dataclass(frozen=True, slots=True)
class TasksRequest:
    """What to evaluate.

    Attributes:
        bundles: Folders.
        tasks: Names, or YAML files.
        include_path: A folder of more tasks.
        limit: Items of each task; a share of them below 1, all if None.
        num_fewshot: Examples before each item; as the task says if None.
        batch_size: Most rows of a batch; as many as a bundle takes if None.
        engines: Names; all that run here if empty.
        configurations: Names; :data:`USUAL` if empty.
    """

    bundles: Sequence[Path]
    tasks: Sequence[str]
    include_path: Path | None = None
    limit: float | None = None
    num_fewshot: int | None = None
    batch_size: int | None = None
    engines: Sequence[str] = field(default_factory=tuple)
    configurations: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class _Call:
    """What all rows of one call share."""

    id: str
    request: TasksRequest
    tasks: TaskSet
    environment: dict[str, Any]
    progress: Progress


def evaluate_tasks(request: TasksRequest, progress: Progress) -> Iterator[TaskRow]:
    """Verify all bundles, load all tasks, then yield the rows of one configuration after another.

    Raises:
        ConfigError: If a bundle is no causal language model, or nothing was asked for.
        IntegrityError: If a bundle is not what its manifest says.
        UnknownName: If there is no such task, engine or configuration.
        DataError: If a task's data cannot be had.
        RunError: If an engine fails, or none runs here.
    """
    if not request.bundles or not request.tasks:
        raise ConfigError(
            "no bundle or no task given", fix="deploy lm-eval BUNDLE --tasks TASK,LOCAL.yaml"
        )
    bundles = [open_bundle(path) for path in request.bundles]
    for bundle in bundles:
        limits_of(bundle, request.batch_size)
    chosen = [(bundle, sides) for bundle in bundles for sides in _sides(bundle, request, progress)]
    if not chosen:
        raise RunError(
            "no engine of these bundles runs here", fix="build with --engine openvino,onnxruntime"
        )
    with progress.step("load tasks"), _spoken(progress):
        tasks = load_tasks(request.tasks, request.include_path)
    environment = {
        **hardware(),
        "threads": default_threads(),
        "versions": {**package_versions(), "lm_eval": metadata.version("lm_eval")},
        "limit": request.limit,
    }
    call = _Call(uuid.uuid4().hex[:12], request, tasks, environment, progress)
    for bundle, sides in chosen:
        with tempfile.TemporaryDirectory(prefix="trueint8-") as scratch:
            yield from _engine_rows(call, bundle, sides, Path(scratch))


def _sides(bundle: Bundle, request: TasksRequest, progress: Progress) -> Iterator[list[Side]]:
    """Yield the configurations of each engine, the float that others are held against first."""
    held = bundle.manifest.engines
    for name in request.engines:
        if name not in held:
            raise UnknownName(
                f"{bundle.path} has no engine {name!r}",
                fix=f"{did_you_mean(name, held)}choose from: {', '.join(held)}",
            )
    for name in request.engines or held:
        why = missing_here(name)
        if why and not request.engines:
            progress.say(f"{name}: not evaluated, {why}  [{Kind.BUILT}]")
            continue
        engine = check_engine(bundle, name)
        offered = _offered(bundle, engine)
        wanted = request.configurations or [n for n in USUAL if n in offered]
        for other in wanted:
            if other not in offered:
                raise UnknownName(
                    f"{name} has no configuration {other!r} on this machine",
                    fix=f"{did_you_mean(other, offered)}choose from: {', '.join(offered)}",
                )
        found = [Side(f"{name} {n}", bundle, engine, offered[n]) for n in wanted]
        yield sorted(found, key=_place)


def _place(side: Side) -> tuple[bool, bool]:
    """Put floats before the rest, and FP32 before other floats."""
    return side.configuration.graph != "float", side.configuration.name != USUAL[0]


def _offered(bundle: Bundle, engine: Engine) -> dict[str, Configuration]:
    found = [*engine.floats()]
    if int8_configuration(engine) is not None:
        rest = bundle.manifest.engines[engine.name].rest
        found += [Configuration("simulated", "fp32"), Configuration("int8", rest)]
    return {configuration.name: configuration for configuration in found}


def _engine_rows(
    call: _Call, bundle: Bundle, sides: Sequence[Side], scratch: Path
) -> Iterator[TaskRow]:
    coverage = audit_engine(bundle, sides[0].engine.name).coverage()
    executes = coverage is None or coverage.int8_matmuls > 0
    reference: dict[tuple[str, str, str], Answers] = {}
    for index, side in enumerate(sides):
        answers, most_tokens = _answers(call, side, scratch)
        graph = side.configuration.graph
        measured = graph == "float" or (graph == "int8" and executes)
        if index == 0 and graph == "float":
            reference = {(a.task, a.metric, a.filtered): a for a in answers}
        for own in answers:
            before = reference.get((own.task, own.metric, own.filtered)) if index else None
            yield _row(
                call,
                side,
                own,
                kind=Kind.MEASURED if measured else Kind.SIMULATED,
                change=before and _change(sides[0].configuration.name, before, own),
                most_tokens=most_tokens,
            )


def _answers(call: _Call, side: Side, scratch: Path) -> tuple[list[Answers], int]:
    """Return one configuration's answers, and the tokens that it sees at most."""
    bundle = side.bundle
    assert bundle.tokenizer is not None
    title = f"{bundle.path.name} on {side.label}"
    with side.engine.open(_path(side, scratch), side.configuration, side.running) as session:
        limits = limits_of(bundle, call.request.batch_size)
        scorer = ContinuationScorer(session.run, session.inputs, limits)
        model = BundleModel(scorer, load_tokenizer(bundle.tokenizer), title, call.progress)
        with _spoken(call.progress):
            answers = answer_tasks(
                model,
                call.tasks,
                limit=call.request.limit,
                num_fewshot=call.request.num_fewshot,
            )
            return list(answers), scorer.most_tokens


def _path(side: Side, scratch: Path) -> Path:
    """Return what the engine opens; the simulation of its Q/DQ graph is written for it."""
    if side.configuration.graph != "simulated" or side.engine.runs_checkpoint:
        return side.path
    path = scratch / "simulated.onnx"
    model = load_clean(side.bundle.quantized_graph(side.engine.name))
    Simulate()(model)
    save_model(model, path)
    return path


def _change(name: str, before: Answers, own: Answers) -> ChangeEntry:
    return ChangeEntry(
        reference=name,
        difference=Interval(**asdict(change(before, own))),
        flips=flips(before, own),
    )


def _row(call: _Call, side: Side, answers: Answers, **figures: Any) -> TaskRow:
    manifest = side.bundle.manifest
    found = figure_of(answers)
    return TaskRow(
        schema=SCHEMA,
        session=call.id,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        model=manifest.model.name,
        bundle=side.bundle.path.name,
        bundle_sha256=side.bundle.sha256,
        attention=manifest.model.attention,
        calibration=manifest.calibration_label,
        engine=side.engine.name,
        configuration=side.configuration.name,
        task=answers.task,
        task_version=answers.version,
        num_fewshot=answers.num_fewshot,
        metric=answers.metric,
        filtered=answers.filtered,
        higher_is_better=answers.higher_is_better,
        value=found.value,
        low=found.low,
        high=found.high,
        samples=len(answers.values),
        truncated=answers.truncated,
        items_sha256=hashlib.sha256("".join(answers.prompts).encode()).hexdigest(),
        items=[plain_value(v) for v in answers.values],
        environment=call.environment,
        **figures,
    )


class _Said(logging.Handler):
    """Passes a library's warnings on to the progress."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.WARNING)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """Say one warning, without its line breaks."""
        self._progress.say(f"lm-eval: {' '.join(record.getMessage().split())}")


@contextlib.contextmanager
def _spoken(progress: Progress) -> Iterator[None]:
    """Keep the harness's own progress bars off the terminal, and its warnings on it."""
    logger, handler = logging.getLogger("lm_eval"), _Said(progress)
    logger.addHandler(handler)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.removeHandler(handler)
