"""The file of a load test: one row per server and rate, raw latencies included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from deploy.record import Record
from trueint8.artifacts import write_atomically
from trueint8.kinds import Kind

SCHEMA: Literal["trueint8/load/1"] = "trueint8/load/1"
ANSWERED = "200"


class ServerSide(Record):
    """What the server's own counters say of one rate."""

    mean_batch: float | None = Field(
        default=None, description="Rows per execution; for Triton, inferences per execution."
    )
    queue_ms: float | None = Field(default=None, description="Mean wait of a request.")
    compute_ms: float | None = Field(default=None, description="Mean time of an execution.")


class LoadRow(Record):
    """One server at one rate."""

    schema_: Literal["trueint8/load/1"] = Field(default=SCHEMA, alias="schema")
    session: str = Field(description="Same for all rows of one `deploy load` call.")
    time: str = Field(description="UTC, ISO 8601.")
    kind: Kind = Kind.MEASURED
    url: str
    model: str
    about: dict[str, str] = Field(
        description="What the server says it serves: bundle, engine, graph, precision."
    )
    rate_per_s: float = Field(description="Requests that were due per second, Poisson.")
    rows: int = Field(description="Rows of a request.")
    objective_ms: float = Field(description="What the 99th percentile may be.")
    timeout_ms: float = Field(description="What counts as the latency of an unanswered request.")
    rounds_ns: list[list[int]] = Field(
        description="Per round, from the time each request was due until its answer was read."
    )
    statuses: dict[str, int] = Field(description="Requests by HTTP status; 0 for no answer.")
    seconds: float = Field(description="From the first request due to the last answer, rounds.")
    lag_p99_ms: float = Field(description="How late the client itself sent, 99th percentile.")
    server: ServerSide = ServerSide()
    perf_analyzer: dict[str, float] | None = Field(
        default=None, description="What perf_analyzer measured at this rate, in its own words."
    )
    environment: dict[str, Any] = Field(description="Of the client's machine.")

    @property
    def label(self) -> str:
        """What is served, as briefly as tells servers apart."""
        graph, rest = self.about.get("graph"), self.about.get("rest", "")
        if graph is None:
            return f"{self.model} at {self.url}"
        precision = "INT8" if graph == "int8" else rest.upper()
        return f"{self.about['bundle']} {self.about['engine']} {precision}"

    @property
    def answered(self) -> int:
        """Requests that got an answer."""
        return self.statuses.get(ANSWERED, 0)

    @property
    def sent(self) -> int:
        """All requests."""
        return sum(self.statuses.values())


def write_load(path: Path, rows: Sequence[LoadRow]) -> None:
    """Write all rows to a ``.jsonl`` file, whole or not at all."""
    lines = (row.model_dump_json(by_alias=True, exclude_none=True) for row in rows)
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def read_load(path: Path) -> list[LoadRow]:
    """Read a file that :func:`write_load` wrote.

    Raises:
        DataError: If it is missing or holds anything else.
    """
    return LoadRow.from_lines(
        path, SCHEMA, what="load results", fix="pass a file that `deploy load` wrote"
    )
