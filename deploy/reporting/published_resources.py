"""What a configuration takes beside its latency, in the report's JSON and its CSV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pydantic import Field

from deploy.manifest import Interval
from deploy.profiling.build_spread import spread_of
from deploy.profiling.rates import joules_per_run, samples_per_s
from deploy.profiling.results import DeviceMemory, Row
from deploy.record import Record


class ThroughputEntry(Record):
    """What a configuration gives under one demand."""

    batch: int
    streams: int = Field(description="Requests at a time.")
    sequences_per_s: Interval
    rounds: int


class RebuildsEntry(Record):
    """How builds of one engine differ; deviations are shares of the latency."""

    builds: int
    distinct: int = Field(description="Builds that differ by content.")
    build_s: list[float]
    slowest_to_fastest: float
    between_builds: float = Field(description="What launches of one build differ by is taken off.")
    between_launches: float
    chance: float = Field(description="Probability of such builds if all were alike.")
    verdict: str


class ResourcesEntry(Record):
    """Memory, size, loading, energy, throughput and builds; each where it was measured."""

    peak_memory_mib: float | None = Field(
        default=None, description="Largest resident set of the configuration's own process."
    )
    pss_mib: float | None = Field(default=None, description="Largest proportional set.")
    device_memory: DeviceMemory | None = None
    size_mib: float | None = Field(default=None, description="Files the engine loads.")
    load_s: list[float] = Field(default=[], description="By launch, compilation included.")
    build_s: float | None = Field(default=None, description="Of the engine in the bundle.")
    energy_j: dict[str, Interval] = Field(
        default={}, description="Joules of the whole machine per call, by counter."
    )
    throughput: list[ThroughputEntry] = []
    rebuilds: RebuildsEntry | None = None


def resources(row: Row) -> dict[str, Any]:
    """Return the fields of :class:`ResourcesEntry`."""
    energy = joules_per_run(row.latency) if row.latency else {}
    return {
        "peak_memory_mib": row.peak_memory_mib,
        "pss_mib": row.pss_mib,
        "device_memory": row.device_memory,
        "size_mib": row.size_mib,
        "load_s": row.load_s,
        "build_s": row.build_s,
        "energy_j": {name: Interval(**asdict(found)) for name, found in energy.items()},
        "throughput": [
            ThroughputEntry(
                batch=held.batch,
                streams=held.streams,
                sequences_per_s=Interval(**asdict(samples_per_s(held))),
                rounds=len(held.rounds),
            )
            for held in row.throughput
        ],
        "rebuilds": _rebuilds(row),
    }


def resource_columns(entry: ResourcesEntry) -> Iterator[tuple[str, object]]:
    """Yield columns of the CSV with their values; interval ends are columns of their own."""
    yield from ((name, getattr(entry, name)) for name in ("peak_memory_mib", "pss_mib", "size_mib"))
    if entry.device_memory is not None:
        yield from ((f"device_{k}", v) for k, v in entry.device_memory.model_dump().items())
    yield from ((f"load_s_{n}", seconds) for n, seconds in enumerate(entry.load_s, start=1))
    if entry.build_s is not None:
        yield "build_s", entry.build_s
    named = {f"energy_j_{name}": found for name, found in entry.energy_j.items()}
    for held in entry.throughput:
        named[f"sequences_per_s_batch_{held.batch}_streams_{held.streams}"] = held.sequences_per_s
    for name, found in named.items():
        yield from ((name, found.value), (f"{name}_low", found.low), (f"{name}_high", found.high))
    if entry.rebuilds is not None:
        plain = entry.rebuilds.model_dump(exclude={"build_s"})
        yield from ((f"rebuilds_{name}", value) for name, value in plain.items())


def _rebuilds(row: Row) -> RebuildsEntry | None:
    if row.rebuilds is None:
        return None
    found = spread_of(row.rebuilds)
    return RebuildsEntry(
        builds=len(row.rebuilds.build_s),
        distinct=row.rebuilds.distinct,
        build_s=row.rebuilds.build_s,
        slowest_to_fastest=found.extremes,
        between_builds=found.between,
        between_launches=found.within,
        chance=found.chance,
        verdict=found.verdict,
    )
