"""SYNTHETIC throughput, memory, energy, builds and tasks, all invented."""

from __future__ import annotations

import numpy as np

from deploy.harness.results import ChangeEntry, FlipsEntry, TaskRow
from deploy.manifest import Interval
from deploy.profiling.results import DeviceMemory, Rebuilds, Row, Throughput
from trueint8.kinds import Kind

DEMANDS = ((1, 1), (8, 2))
"""Batches and streams."""


def throughput(rate_per_s: float, seed: int, *, rounds: int = 12) -> list[Throughput]:
    """Return invented runs of every demand; the second gives 1.5 times as many sequences."""
    draw = np.random.default_rng(seed)
    found = []
    for batch, streams in DEMANDS:
        rate = rate_per_s * (1.5 if streams > 1 else 1.0)
        seconds = 200 * batch / (rate / streams) * draw.normal(1, 0.01, (rounds, streams))
        told = [[(200, int(1e9 * s)) for s in of] for of in seconds.tolist()]
        found.append(Throughput(batch=batch, streams=streams, rounds=told, launches=3))
    return found


def rebuilds(*, apart: float) -> Rebuilds:
    """Return three invented builds in three launches; the last is slower by a share ``apart``."""
    draw = np.random.default_rng(9)
    times = 1.7e6 * draw.normal(1, 0.002, (3, 3, 4, 20))
    times[2] *= 1 + apart
    return Rebuilds(build_s=[4.1, 4.3, 3.9], distinct=2, launches_ns=times.astype(int).tolist())


def with_resources(row: Row, seed: int) -> Row:
    """Return a row with all that can be measured beside latency."""
    assert row.latency is not None
    blocks = [
        block.model_copy(update={"energy_j": {"package-0": 2.0 + 0.05 * (number % 5)}})
        for number, block in enumerate(row.latency.blocks)
    ]
    median_ms = sorted(t for times in row.latency.rounds_ns for t in times)[120] / 1e6
    int8 = row.precision == "int8"
    return row.model_copy(
        update={
            "latency": row.latency.model_copy(update={"blocks": blocks}),
            "throughput": [] if row.kind is Kind.SIMULATED else throughput(1e3 / median_ms, seed),
            "rebuilds": rebuilds(apart=0.05) if int8 else None,
            "load_s": [0.81, 0.9, 0.84],
            "build_s": 4.05 if int8 else None,
            "pss_mib": 180.25,
            "device_memory": DeviceMemory(
                weights_mib=11.5, activations_mib=3.25, inputs_and_outputs_mib=0.5
            ),
        }
    )


def task_rows() -> list[TaskRow]:
    """Return one invented task of 40 items, by a float, a simulation and an INT8 configuration."""
    answers = {"float-fp32": 30, "simulated-fp32": 29, "int8": 24}
    kinds = {"simulated-fp32": Kind.SIMULATED}
    return [
        TaskRow(
            session="s",
            time="2026-01-15T10:30:00Z",
            model="tiny-gpt",
            bundle="tiny-gpt-clipped",
            bundle_sha256="9f" * 32,
            attention="clipped",
            calibration="percentile 99.99",
            engine="openvino",
            configuration=name,
            kind=kinds.get(name, Kind.MEASURED),
            task="endings",
            task_version="1",
            num_fewshot=2,
            metric="acc_norm",
            filtered="none",
            higher_is_better=True,
            value=right / 40,
            low=right / 40 - 0.12,
            high=right / 40 + 0.11,
            samples=40,
            change=None if name == "float-fp32" else _change(right - 30),
            most_tokens=64,
            truncated=3,
            items_sha256="ab" * 32,
            items=[1] * right + [0] * (40 - right),
            environment={"synthetic": True},
        )
        for name, right in answers.items()
    ]


def _change(more: int) -> ChangeEntry:
    value = more / 40
    return ChangeEntry(
        reference="float-fp32",
        difference=Interval(value=value, low=value - 0.05, high=value + 0.05),
        flips=FlipsEntry(gained=1, lost=1 - more, p_value=0.02),
    )
