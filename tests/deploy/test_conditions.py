"""What others took of the machine: arithmetic by hand, and a process that takes a processor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from deploy.nvidia.telemetry import GpuState, GpuWatch
from deploy.profiling.conditions import Load, Snapshot, Watch, load_between, throttle_events
from deploy.profiling.results import Gpu

SPIN = "print('on', flush=True)\nwhile True: pass"


@pytest.mark.parametrize(
    ("end", "load"),
    [
        (Snapshot(11.0, 103.0, 50.2, 22.0), Load(others=0.25, stolen=0.05)),
        (Snapshot(11.0, 102.0, 50.0, 22.5), Load(others=0.0, stolen=0.0)),  # ticks, rounded up
        (Snapshot(11.0, 190.0, 90.0, 20.0), Load(others=1.0, stolen=1.0)),
    ],
)
def test_load_is_a_share_of_all_processors(end: Snapshot, load: Load) -> None:
    found = load_between(Snapshot(10.0, 100.0, 50.0, 20.0), end, processors=4)
    assert found.others == pytest.approx(load.others)
    assert found.stolen == pytest.approx(load.stolen)


def test_a_busy_process_is_own_or_others_as_it_is_told() -> None:
    """Held against each other in the same second, so that what else runs does not matter."""
    with subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE) as spinning:
        assert spinning.stdout is not None
        spinning.stdout.readline()
        apart, together = Watch([]), Watch([spinning.pid])
        starts = [watch.snapshot() for watch in (apart, together)]
        before = psutil.Process(spinning.pid).cpu_times().user
        while psutil.Process(spinning.pid).cpu_times().user < before + 0.2:
            time.sleep(0.05)
        ends = [watch.snapshot() for watch in (apart, together)]
        spinning.kill()
    used = (ends[1].own_s - starts[1].own_s) - (ends[0].own_s - starts[0].own_s)
    assert used >= 0.15
    cores = os.cpu_count() or 1
    others = [load_between(s, e, cores).others for s, e in zip(starts, ends, strict=True)]
    assert others[0] > others[1]


def test_slowed_cores_are_counted_where_the_kernel_tells(tmp_path: Path) -> None:
    assert throttle_events(tmp_path) is None
    for core, count in ((0, 3), (1, 4)):
        file = tmp_path / f"cpu{core}" / "thermal_throttle" / "core_throttle_count"
        file.parent.mkdir(parents=True)
        file.write_text(f"{count}\n")
    assert throttle_events(tmp_path) == 7


class FakeNvmlError(Exception):
    """What the fake's questions without an answer raise."""


def _silent(*_: object) -> None:
    raise FakeNvmlError


def _fake_nvml() -> SimpleNamespace:
    return SimpleNamespace(
        NVMLError=FakeNvmlError,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: f"gpu {index}",
        nvmlDeviceGetClockInfo=lambda gpu, which: {1: 1200, 2: 2600}[which],
        nvmlDeviceGetTemperature=lambda gpu, sensor: 71,
        nvmlDeviceGetPowerUsage=_silent,
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=3 * 2**20),
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=25),
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda gpu: 0x001 | 0x004 | 0x040,
    )


def test_what_the_driver_tells_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _fake_nvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    state = GpuWatch().state()
    assert state is not None
    assert state == GpuState(1200, 2600, 71, None, 0.25, 3.0, ("power cap", "thermal, by hardware"))
    assert Gpu.model_validate(asdict(state)).throttled == ["power cap", "thermal, by hardware"]
    fake.nvmlInit = _silent
    assert GpuWatch().state() is None
