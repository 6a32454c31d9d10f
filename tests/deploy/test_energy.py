"""Energy counters: a planted powercap tree, a planted NVML, and none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.energy import EnergyMeter

NO_GPU = "not available here: no driver"


def plant(folder: Path, name: str, called: str, energy_uj: int, largest_uj: int = 1000) -> Path:
    """Write one counter as Linux lays it out."""
    domain = folder / name
    domain.mkdir(parents=True)
    (domain / "name").write_text(f"{called}\n")
    (domain / "energy_uj").write_text(f"{energy_uj}\n")
    (domain / "max_energy_range_uj").write_text(f"{largest_uj}\n")
    return domain / "energy_uj"


class Nvml:
    """Two GPUs, or an error."""

    class NVMLError(Exception):
        pass

    def __init__(self, error: str = "") -> None:
        self.error, self.millijoules = error, [5000, 70]

    def nvmlDeviceGetCount(self) -> int:
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if self.error:
            raise self.NVMLError(self.error)
        return self.millijoules[handle]


def test_packages_and_their_memory_count_and_other_parts_do_not(tmp_path: Path) -> None:
    package = plant(tmp_path, "intel-rapl:0", "package-0", 4_000_000, 262_143_328_850)
    plant(tmp_path, "intel-rapl:0:0", "core", 1)
    memory = plant(tmp_path, "intel-rapl:0:1", "dram", 500_000, 65_712_999_613)
    plant(tmp_path, "intel-rapl:1", "package-1", 0)
    meter = EnergyMeter(tmp_path, NO_GPU)
    start = meter.read()
    assert set(start) == {"package-0", "package-0 dram", "package-1"}
    package.write_text("6500000\n")
    memory.write_text("750000\n")
    used = meter.joules_since(start)
    assert used == pytest.approx({"package-0": 2.5, "package-0 dram": 0.25, "package-1": 0.0})
    assert meter.unavailable == {"gpu": NO_GPU}


def test_a_counter_that_started_again_is_followed(tmp_path: Path) -> None:
    file = plant(tmp_path, "intel-rapl:0", "package-0", 9_000_000, 10_000_000)
    meter = EnergyMeter(tmp_path, NO_GPU)
    start = meter.read()
    file.write_text("1000000\n")
    assert meter.joules_since(start) == pytest.approx({"package-0": 2.0})


def test_gpus_count_in_millijoules(tmp_path: Path) -> None:
    nvml = Nvml()
    meter = EnergyMeter(tmp_path, nvml)
    start = meter.read()
    nvml.millijoules = [5500, 71]
    assert meter.joules_since(start) == pytest.approx({"gpu-0": 0.5, "gpu-1": 0.001})


@pytest.mark.parametrize(
    ("nvml", "reason"), [(NO_GPU, "no driver"), (Nvml("Not Supported"), "Not Supported")]
)
def test_what_cannot_be_read_is_said_with_its_reason(
    nvml: Any, reason: str, tmp_path: Path
) -> None:
    meter = EnergyMeter(tmp_path / "nowhere", nvml)
    assert meter.read() == {} and meter.joules_since({}) == {}
    assert meter.unavailable["gpu"] == f"not available here: {reason}"
    assert "holds no RAPL counter" in meter.unavailable["processor"]


def test_a_counter_for_root_only_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = plant(tmp_path, "intel-rapl:0", "package-0", 1)
    read = Path.read_text

    def refusing(path: Path, *args: Any, **more: Any) -> str:
        if path == file:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **more)

    monkeypatch.setattr(Path, "read_text", refusing)
    meter = EnergyMeter(
        tmp_path, SimpleNamespace(NVMLError=ValueError, nvmlDeviceGetCount=lambda: 0)
    )
    assert meter.read() == {}
    assert meter.unavailable["processor"] == f"not available here: {file}: Permission denied"
    assert meter.unavailable["gpu"] == "not available here: no GPU"


def test_here_each_kind_has_counters_or_a_reason() -> None:
    meter = EnergyMeter()
    found = {"gpu" if name.startswith("gpu-") else "processor" for name in meter.read()}
    assert found | set(meter.unavailable) == {"processor", "gpu"}
    assert not found & set(meter.unavailable)
