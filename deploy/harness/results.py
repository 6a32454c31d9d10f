"""What is written of tasks: one JSON object per line, per configuration, task and metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from deploy.manifest import Interval
from deploy.record import Record
from trueint8.kinds import Kind

SCHEMA: Literal["trueint8/tasks/1"] = "trueint8/tasks/1"


class FlipsEntry(Record):
    """Items that one of two configurations has right and the other wrong."""

    gained: int = Field(description="Wrong in the reference.")
    lost: int = Field(description="Right in the reference.")
    p_value: float = Field(description="McNemar, exact, two-sided.")


class ChangeEntry(Record):
    """A figure less that of the reference, on the same items."""

    reference: str = Field(description="Configuration of the same bundle and engine.")
    difference: Interval
    flips: FlipsEntry | None = Field(
        default=None, description="None where items are not right or wrong."
    )


class TaskRow(Record):
    """One metric of one task by one configuration of a bundle."""

    schema_: Literal["trueint8/tasks/1"] = Field(default=SCHEMA, alias="schema")
    session: str = Field(description="Same for all rows of one call.")
    time: str = Field(description="UTC, ISO 8601.")
    model: str = Field(description="Name of the model, as in the bundle's manifest.")
    bundle: str = Field(description="The bundle's folder name.")
    bundle_sha256: str = Field(description="Of the bundle's manifest.")
    attention: str
    calibration: str = Field(description="Such as 'percentile 99.99'.")
    engine: str
    configuration: str = Field(description="Such as float-fp32, simulated-fp32 or int8.")
    kind: Kind
    task: str
    task_version: str
    num_fewshot: int
    metric: str = Field(description="Such as acc_norm.")
    filtered: str = Field(description="The filter that answers went through.")
    higher_is_better: bool | None
    value: float
    low: float = Field(description="Lower end of the 95 % interval over items.")
    high: float
    samples: int = Field(description="Items it was computed over.")
    change: ChangeEntry | None = Field(
        default=None, description="None for the reference, and where no float was evaluated."
    )
    most_tokens: int = Field(description="What the model sees at most.")
    truncated: int = Field(
        description="Requests whose context was cut on the left, of all metrics of the task."
    )
    items_sha256: str = Field(description="Of the items' prompts: equal where items are the same.")
    items: list[Any] = Field(
        description="Value of each item: a number, or what the metric is computed from."
    )
    environment: dict[str, Any]


def read_tasks(path: Path) -> list[TaskRow]:
    """Read a file that ``deploy lm-eval`` wrote.

    Raises:
        DataError: If it is missing or holds anything else.
    """
    return TaskRow.from_lines(
        path, SCHEMA, what="task results", fix="pass a file that `deploy lm-eval -o` wrote"
    )
