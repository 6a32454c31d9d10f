"""Joules that a machine's own counters tell: RAPL of processors, NVML of NVIDIA GPUs.

All counters are of the whole machine: what else runs is in them. Those that cannot be read are
named with the reason, and nothing is estimated in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")

_PACKAGES = "intel-rapl:*"
"""What Linux calls the counters, of AMD processors too; ``intel-rapl:0:0`` is a part of 0."""

_APART = "dram"
"""The one part that its package does not count."""


@dataclass(frozen=True, slots=True)
class Counter:
    """One running count of joules.

    Attributes:
        read_uj: Returns it in microjoules.
        largest_uj: Where it starts again at 0; None for one that does not.
    """

    read_uj: Callable[[], int]
    largest_uj: int | None = None


class EnergyMeter:
    """Reads every counter that can be read here.

    Args:
        powercap: Linux's folder of the processors' counters.
        nvml: The library ``pynvml`` once it has been initialized, or why there is none.

    Attributes:
        unavailable: Why there is no figure, by ``processor`` and ``gpu``.
    """

    def __init__(self, powercap: Path = POWERCAP, nvml: Any = None) -> None:
        library = nvml if nvml is not None else _nvml()
        processor = _processor_counters(powercap)
        gpu = library if isinstance(library, str) else _gpu_counters(library)
        found = {"processor": processor, "gpu": gpu}
        self.unavailable = {name: why for name, why in found.items() if isinstance(why, str)}
        self._counters: dict[str, Counter] = {}
        for counters in (processor, gpu):
            self._counters |= {} if isinstance(counters, str) else counters

    def read(self) -> dict[str, int]:
        """Return every counter in microjoules."""
        return {name: counter.read_uj() for name, counter in self._counters.items()}

    def joules_since(self, start: Mapping[str, int]) -> dict[str, float]:
        """Return what was used since :meth:`read` gave ``start``, by counter.

        A counter that started again once in between is followed; twice cannot be seen, but takes
        minutes.
        """
        used = {}
        for name, end_uj in self.read().items():
            more, largest = end_uj - start[name], self._counters[name].largest_uj
            used[name] = (more + (largest or 0) * (more < 0)) / 1e6
        return used


def _processor_counters(powercap: Path) -> dict[str, Counter] | str:
    domains = sorted(powercap.glob(_PACKAGES))
    if not domains:
        return f"not available here: {powercap} holds no RAPL counter"
    found = {}
    try:
        for domain in domains:
            name = (domain / "name").read_text().strip()
            above = domain.name.rpartition(":")[0]
            if ":" in above and name == _APART:
                name = f"{(powercap / above / 'name').read_text().strip()} {name}"
            elif ":" in above:
                continue
            counter = Counter(
                _reader(domain / "energy_uj"), int((domain / "max_energy_range_uj").read_text())
            )
            counter.read_uj()
            found[name] = counter
    except OSError as err:
        return f"not available here: {err.filename}: {err.strerror}"
    return found


def _reader(file: Path) -> Callable[[], int]:
    return lambda: int(file.read_text())


def _nvml() -> Any:
    try:
        import pynvml
    except ImportError:
        return "not available here: nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as err:
        return f"not available here: {err}"
    return pynvml


def _gpu_counters(library: Any) -> dict[str, Counter] | str:
    found = {}
    try:
        for index in range(library.nvmlDeviceGetCount()):
            counter = Counter(_gpu_reader(library, library.nvmlDeviceGetHandleByIndex(index)))
            counter.read_uj()
            found[f"gpu-{index}"] = counter
    except library.NVMLError as err:
        return f"not available here: {err}"
    return found or "not available here: no GPU"


def _gpu_reader(library: Any, handle: Any) -> Callable[[], int]:
    """Return a reader of millijoules since the driver was loaded."""
    return lambda: int(library.nvmlDeviceGetTotalEnergyConsumption(handle)) * 1000
