"""What the driver tells of the first GPU: clocks, temperature, power, and why it runs slower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

REASONS = {
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x020: "thermal, by software",
    0x040: "thermal, by hardware",
    0x080: "power brake",
}
"""Bits of NVML's clocks event reasons that slow a busy GPU down; idleness and set clocks do not."""

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class GpuState:
    """At one moment; None is not told by this GPU."""

    sm_mhz: int | None
    memory_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    busy: float | None
    """Share, 0 to 1, of the last sample period in which a kernel ran, whoever's."""
    used_mib: float | None
    """Of all processes."""
    throttled: tuple[str, ...]


class GpuWatch:
    """Asks NVML; tells nothing where nvidia-ml-py or a driver is not there."""

    def __init__(self) -> None:
        self._nvml: Any = None
        try:
            import pynvml
        except ImportError:
            return
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        except pynvml.NVMLError:
            return
        self._nvml = pynvml

    def state(self) -> GpuState | None:
        """Return what the GPU does now; None without one."""
        nvml = self._nvml
        if nvml is None:
            return None
        power = self._asked(nvml.nvmlDeviceGetPowerUsage)
        used = self._asked(nvml.nvmlDeviceGetMemoryInfo)
        busy = self._asked(nvml.nvmlDeviceGetUtilizationRates)
        reasons = getattr(
            nvml,
            "nvmlDeviceGetCurrentClocksEventReasons",  # its name since driver 535
            nvml.nvmlDeviceGetCurrentClocksThrottleReasons,
        )
        bits = self._asked(reasons) or 0
        return GpuState(
            sm_mhz=self._asked(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            memory_mhz=self._asked(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            temperature_c=self._asked(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            power_w=None if power is None else power / 1000,
            busy=None if busy is None else busy.gpu / 100,
            used_mib=None if used is None else used.used / _MIB,
            throttled=tuple(name for bit, name in REASONS.items() if bits & bit),
        )

    def _asked(self, question: Callable[..., Any], *about: Any) -> Any:
        """Return NVML's answer, None where this GPU has none."""
        try:
            return question(self._handle, *about)
        except self._nvml.NVMLError:
            return None
