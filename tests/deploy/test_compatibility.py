"""Files that were built for another machine are refused before they are loaded, with the cure."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

import deploy
from deploy import compatibility, hardware
from deploy.compatibility import mismatches
from deploy.engine_options import EngineOptions
from deploy.engines import ENGINES
from deploy.manifest import EngineEntry, Manifest
from deploy.sessions import VNNI, Needs
from tests.deploy.planting import reseal
from tests.deploy.running import run_here
from trueint8.errors import RunError

ENTRY = EngineEntry(version="10.8.0", runs_here=True, rest="fp16", int8_matmuls=1, cosine=None)
HERE = {
    "system": "Linux",
    "machine": "x86_64",
    "compute_capability": ["8.9"],
    "driver": "560.28.03",
}


def _told(
    needs: Needs, *, version: str = "10.8.0", built: Mapping[str, Any] = HERE, **here: Any
) -> str:
    return "; ".join(map(str, mismatches(needs, ENTRY, version, built, {**HERE, **here})))


@pytest.mark.parametrize(
    ("rule", "version", "told"),
    [
        ("same", "10.8.0", ""),
        ("same", "10.9.0", "for version 10.8.0, and here is 10.9.0"),
        ("not older", "10.8.0", ""),
        ("not older", "10.10.1", ""),
        ("not older", "10.7.9", "for version 10.8.0 or later, and here is 10.7.9"),
        ("any", "1.0", ""),
    ],
)
def test_versions(rule: Any, version: str, told: str) -> None:
    assert _told(Needs(rule), version=version) == told


@pytest.mark.parametrize(
    ("allowed", "here", "told"),
    [
        (("built",), ["8.9"], ""),
        (("built",), ["9.0"], "for GPUs of compute capability 8.9, and here is 9.0"),
        (("built",), ["7.5", "8.9"], ""),
        (("8.0+",), ["9.0"], ""),
        (("8.0+",), ["7.5"], "for GPUs of compute capability 8.0+, and here is 7.5"),
        (("8.6", "12.0"), ["8.9"], "for GPUs of compute capability 8.6 12.0, and here is 8.9"),
        (("8.9",), [], ""),
    ],
)
def test_gpus(allowed: tuple[str, ...], here: list[str], told: str) -> None:
    assert _told(Needs("any", capabilities=allowed), compute_capability=here) == told


def test_drivers_and_systems() -> None:
    gpu = Needs(capabilities=("built",))
    assert _told(gpu, driver="560.28.04") == ""
    assert _told(gpu, driver="550.1") == "for driver 560.28.03 or later, and here is 550.1"
    other: dict[str, Any] = {"system": "Windows", "machine": "AMD64"}
    assert _told(Needs(), **other) == ""
    assert _told(Needs(system=True), **other) == (
        "for system Linux x86_64, and here is Windows AMD64"
    )


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [
        (["avx512_vnni", "avx2"], {"avx2"}, False),
        (["avx512_vnni", "avx2"], {"avx2", "avx_vnni"}, True),
        (["avx2"], {"avx2"}, True),
        (["amx_int8", "avx512_vnni"], {"avx512_vnni"}, True),
    ],
)
def test_an_integer_dot_product_is_needed_where_the_build_had_one(
    built: list[str], here: set[str], fits: bool
) -> None:
    with mock.patch.object(compatibility, "cpu_flags", return_value=frozenset(here)):
        told = _told(Needs(features=VNNI), built={"cpu_features": built})
    assert (told == "") is fits
    if not fits:
        assert told == "for a processor with avx512_vnni or avx_vnni or amx_int8, and here is avx2"


def _newer(engine: str) -> Callable[[Manifest], object]:
    def change(manifest: Manifest) -> None:
        manifest.engines[engine] = manifest.engines[engine].model_copy(update={"version": "9999.1"})

    return change


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_an_engine_of_a_later_version_is_refused_wherever_it_would_be_loaded(
    bundle_copy: Path, tmp_path: Path, arrays: Path, engine: str
) -> None:
    reseal(bundle_copy, _newer(engine))
    words = (
        f"{engine} of",
        "was built for version 9999.1 or later, and here is",
        "build it again here: deploy build bert.onnx --calib-data calibration.npz --int8 "
        "--engine openvino,onnxruntime",
    )
    with pytest.raises(RunError) as caught:
        deploy.load(bundle_copy, engine=engine)
    assert all(word in str(caught.value) for word in words)
    run_here("inspect", bundle_copy, "--engine", engine).refused(8, *words)
    run_here("verify", bundle_copy).refused(8, *words)
    out = tmp_path / "results.jsonl"
    line = ("profile", bundle_copy, "--data", arrays, "--engine", engine, "-o", out)
    run_here(*line, "--quiet").refused(8, *words)
    assert not out.exists()


def test_every_mismatch_is_told(bundle_copy: Path) -> None:
    def change(manifest: Manifest) -> None:
        _newer("openvino")(manifest)
        manifest.hardware["cpu_features"] = ["avx512_vnni"]

    reseal(bundle_copy, change)
    with (
        mock.patch.object(compatibility, "cpu_flags", return_value=frozenset(["avx2"])),
        pytest.raises(RunError) as caught,
    ):
        deploy.load(bundle_copy, engine="openvino")
    assert "9999.1" in caught.value.problem
    assert "avx512_vnni" in caught.value.problem


def test_load_takes_the_first_engine_that_is_here(bundle_copy: Path) -> None:
    openvino = type(ENGINES.load("openvino"))
    with (
        mock.patch.object(openvino, "runs_here", False),
        deploy.load(bundle_copy) as session,
    ):
        assert type(session).__name__ == "OnnxRuntimeSession"


def test_targets_of_rtx_plans() -> None:
    engine = ENGINES.load("tensorrt-rtx")
    named = engine.needs(EngineOptions(gpu=("sm86", "sm120")))
    assert named.capabilities == ("8.6", "12.0")
    assert named.version == "same" and named.system
    usual = engine.needs(EngineOptions()).capabilities
    assert not {"7.5", "9.0"} & set(usual)


def test_what_the_driver_says_of_gpus() -> None:
    def answer(query: list[str], **_: Any) -> Any:
        lines = {
            "name,driver_version": "NVIDIA L4, 560.28\nNVIDIA T4, 560.28\n",
            "driver_version,compute_cap": "560.28, 8.9\n560.28, 7.5\n",
        }
        fields = query[1].removeprefix("--query-gpu=")
        return SimpleNamespace(returncode=0, stdout=lines[fields])

    with (
        mock.patch("shutil.which", return_value="/bin/nvidia-smi"),
        mock.patch.object(subprocess, "run", answer),
    ):
        found = hardware.hardware()
    assert found["gpu"] == "NVIDIA L4, 560.28; NVIDIA T4, 560.28"
    assert found["driver"] == "560.28"
    assert found["compute_capability"] == ["8.9", "7.5"]
