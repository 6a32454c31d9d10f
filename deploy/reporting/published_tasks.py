"""Tasks of lm-evaluation-harness in the report's JSON: without what each item gave."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from deploy.harness.results import ChangeEntry, TaskRow
from deploy.manifest import Interval
from deploy.record import Record
from trueint8.kinds import Kind


class AnswerEntry(Record):
    """One configuration's figure."""

    session: str
    model: str
    bundle: str
    bundle_sha256: str
    attention: str
    calibration: str
    engine: str
    configuration: str = Field(description="Such as float-fp32, simulated-fp32 or int8.")
    kind: Kind
    value: Interval
    samples: int = Field(description="Items it was computed over.")
    change: ChangeEntry | None = Field(
        default=None, description="Against a float of the same bundle and engine, same items."
    )
    items_sha256: str = Field(description="Equal where items are the same.")


class TaskEntry(Record):
    """One metric of one task."""

    task: str
    task_version: str
    num_fewshot: int
    metric: str
    filtered: str = Field(description="The filter that answers went through.")
    higher_is_better: bool | None
    answers: list[AnswerEntry]


def by_metric(rows: Sequence[TaskRow]) -> dict[tuple[str, str, int, str, str], list[TaskRow]]:
    """Return rows by task, version, examples, metric and filter, in their order."""
    found: dict[tuple[str, str, int, str, str], list[TaskRow]] = {}
    for row in rows:
        key = (row.task, row.task_version, row.num_fewshot, row.metric, row.filtered)
        found.setdefault(key, []).append(row)
    return found


def task_entries(rows: Sequence[TaskRow]) -> list[TaskEntry]:
    """Return what the report says of tasks."""
    return [
        TaskEntry(
            task=block[0].task,
            task_version=block[0].task_version,
            num_fewshot=block[0].num_fewshot,
            metric=block[0].metric,
            filtered=block[0].filtered,
            higher_is_better=block[0].higher_is_better,
            answers=list(map(_answer, block)),
        )
        for block in by_metric(rows).values()
    ]


def _answer(row: TaskRow) -> AnswerEntry:
    figures = {name: getattr(row, name) for name in AnswerEntry.model_fields if name != "value"}
    return AnswerEntry(value=Interval(value=row.value, low=row.low, high=row.high), **figures)
