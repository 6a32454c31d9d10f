"""What else the machine did while a block of runs was timed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

_PROCESSORS = Path("/sys/devices/system/cpu")
_THROTTLED = "cpu[0-9]*/thermal_throttle/core_throttle_count"
_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Seconds since some moment: on the wall, and of all processors together."""

    wall_s: float
    busy_s: float
    stolen_s: float
    own_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """Shares, 0 to 1, of all processors' time.

    Attributes:
        others: Spent in processes that take no part in the measuring.
        stolen: Given to other guests by the hypervisor.
    """

    others: float
    stolen: float


class Watch:
    """Reads the processors' clocks.

    Args:
        pids: Processes that take part, beside this one.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._own = [psutil.Process(pid) for pid in (os.getpid(), *pids)]

    def snapshot(self) -> Snapshot:
        """Return the clocks as they stand."""
        machine = psutil.cpu_times()
        own = [process.cpu_times() for process in self._own]
        return Snapshot(
            wall_s=time.perf_counter(),
            busy_s=machine.user + machine.nice + machine.system + machine.irq + machine.softirq,
            stolen_s=machine.steal,
            own_s=sum(times.user + times.system for times in own),
        )


def load_between(start: Snapshot, end: Snapshot, processors: int) -> Load:
    """Return what others took between two snapshots.

    The kernel counts in ticks of 1 to 10 ms: one short block is rough, the mean of many is not.

    Args:
        start: Before the block.
        end: After it.
        processors: Of the machine, not only of this process.
    """
    whole = max(end.wall_s - start.wall_s, 1e-9) * processors
    others = (end.busy_s - start.busy_s) - (end.own_s - start.own_s)
    return Load(
        others=min(max(others / whole, 0.0), 1.0),
        stolen=min(max((end.stolen_s - start.stolen_s) / whole, 0.0), 1.0),
    )


def frequency_mhz() -> float | None:
    """Return the mean clock of the processors, where the kernel tells it."""
    found = psutil.cpu_freq()
    return float(found.current) if found is not None and found.current else None


def temperature_c() -> float | None:
    """Return the temperature of the processor's hottest sensor, where the kernel tells it."""
    sensors = psutil.sensors_temperatures()
    return max((r.current for name in _SENSORS for r in sensors.get(name, ())), default=None)


def throttle_events(processors: Path = _PROCESSORS) -> int | None:
    """Return how often cores were slowed down for heat since the start, where the kernel tells."""
    counts = [int(file.read_text()) for file in processors.glob(_THROTTLED)]
    return sum(counts) if counts else None


def governor() -> str | None:
    """Return what decides the first processor's clock, such as ``performance``."""
    return _GOVERNOR.read_text().strip() if _GOVERNOR.is_file() else None
