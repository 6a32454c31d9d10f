"""Tasks of lm-evaluation-harness: its own by name, and local ones by their YAML file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lm_eval.api.group import Group
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from deploy.harness.adapter import BundleModel
from trueint8.errors import ConfigError, DataError, UnknownName
from trueint8.registry import did_you_mean

FEWSHOT_SEED = 1234
"""The harness's own; decides which examples stand before an item."""

Aggregate = Callable[[list[Any]], float]


@dataclass(frozen=True, slots=True)
class TaskSet:
    """Loaded tasks, and the groups they are in."""

    tasks: dict[str, Task]
    groups: dict[str, Group]


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model answered to one task, by one metric.

    Attributes:
        task: Its name.
        version: Of the task, as its file says.
        num_fewshot: Examples before each item.
        metric: Such as ``acc_norm``.
        filtered: Name of the filter that answers went through, ``none`` for most.
        higher_is_better: None where the task does not say.
        aggregate: From all items' values to the figure.
        prompts: A hash of each item's first prompt, in order.
        values: Of each item: a number, or what the metric needs, such as log-likelihood and words.
        truncated: Requests whose context was cut on the left.
    """

    task: str
    version: str
    num_fewshot: int
    metric: str
    filtered: str
    higher_is_better: bool | None
    aggregate: Aggregate
    prompts: tuple[str, ...]
    values: tuple[Any, ...]
    truncated: int


def load_tasks(names: Sequence[str], include_path: Path | None) -> TaskSet:
    """Load tasks with their data.

    Args:
        names: Of tasks, tags and groups, or YAML files.
        include_path: A folder whose YAML files are known by the names they give.

    Raises:
        UnknownName: If there is no such task.
        DataError: If a task's data cannot be had, or its file is wrong.
        ConfigError: If a task asks for generated text or images.
    """
    # a folder of thousands of files is read for the names of tasks
    known = any(not Path(name).is_file() for name in names)
    manager = TaskManager(
        include_path=str(include_path) if include_path else None, include_defaults=known
    )
    for name in names:
        if name not in manager.task_index and not Path(name).is_file():
            raise UnknownName(
                f"no task is called {name!r}, and no file",
                fix=f"{did_you_mean(name, manager.all_tasks)}name a task of lm-evaluation-harness "
                "or a YAML file, or pass --include-path FOLDER",
            )
    try:
        loaded = manager.load(list(names))
    except Exception as err:  # whatever a task's file, code or data makes the library raise
        line = next(iter(str(err).splitlines()), "")
        raise DataError(
            f"the tasks {', '.join(names)} cannot be loaded: {type(err).__name__}: {line}",
            fix="check the task's file; where there is no network, name a YAML file with "
            "dataset_path: json and dataset_kwargs: {data_files: ...}",
        ) from err
    for name, task in loaded["tasks"].items():
        if task.OUTPUT_TYPE == "generate_until" or getattr(task, "MULTIMODAL", False):
            raise ConfigError(
                f"{name} asks for generated text or images; a bundle's graph scores text",
                fix="choose tasks of multiple choice or of log-likelihoods",
            )
    return TaskSet(loaded["tasks"], loaded.get("groups", {}))


def answer_tasks(
    model: BundleModel, tasks: TaskSet, *, limit: float | None, num_fewshot: int | None
) -> Iterator[Answers]:
    """Let the harness evaluate a model; yield its answers, by task and metric, then by group.

    Args:
        model: Any.
        tasks: As loaded; the same for every model that is compared.
        limit: Items of each task; a share of them below 1, all if None.
        num_fewshot: Examples before each item; as the task says if None.

    Raises:
        DataError: If the model cannot take what a task asks.
    """
    answers: list[Answers] = []
    for name, task in tasks.tasks.items():
        shots = task.get_config("num_fewshot")
        # as the harness has it: 0 in a task's file says that the task takes no examples
        if shots is None or (num_fewshot is not None and shots != 0):
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
        before = model.scorer.truncated
        found = evaluate(model, {"tasks": {name: task}}, limit=limit, bootstrap_iters=0)
        answers += _by_metric(name, task, found, model.scorer.truncated - before)
    yield from answers
    for group in tasks.groups.values():
        yield from _pooled(group, answers)


def _by_metric(
    name: str, task: Task, found: Mapping[str, Any], truncated: int
) -> Iterator[Answers]:
    samples = found["samples"][name]
    for filtered, metric in dict.fromkeys((s["filter"], m) for s in samples for m in s["metrics"]):
        items = [s for s in samples if s["filter"] == filtered and metric in s["metrics"]]
        yield Answers(
            task=name,
            version=str(found["versions"].get(name)),
            num_fewshot=int(found["n-shot"].get(name) or 0),
            metric=metric,
            filtered=filtered,
            higher_is_better=found["higher_is_better"].get(name, {}).get(metric),
            aggregate=task.aggregation().get(metric, mean),
            prompts=tuple(f"{s['doc_hash']}{s['prompt_hash']}" for s in items),
            values=tuple(s[metric] for s in items),
            truncated=truncated,
        )


def _pooled(group: Group, answers: Sequence[Answers]) -> Iterator[Answers]:
    """Yield what a group says as one task, where it weights its tasks by their items."""
    own = {task.task_name for task in group.get_all_tasks()}
    for wanted in group.aggregate_metric_list or ():
        if not wanted.weight_by_size:
            continue
        parts = [a for a in answers if a.task in own and a.metric == wanted.metric]
        for filtered in dict.fromkeys(a.filtered for a in parts):
            of = [a for a in parts if a.filtered == filtered]
            yield replace(
                of[0],
                task=group.name,
                version=group.version,
                prompts=tuple(p for a in of for p in a.prompts),
                values=tuple(v for a in of for v in a.values),
                truncated=sum(a.truncated for a in of),
            )


def plain_value(value: Any) -> Any:
    """Return an item's value as JSON can hold it."""
    return json.loads(json.dumps(value, default=float))
