"""What ``deploy doctor`` finds, and how it says so."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from unittest import mock

import pytest

from deploy.commands import doctor
from tests.deploy.running import run_here


def test_a_sound_installation_ends_with_0() -> None:
    with mock.patch.object(doctor, "installed", return_value={"onnxruntime", "openvino"}):
        ended = run_here("doctor", "--json")
        text = run_here("doctor").out
    assert ended.code == 0, ended.out
    found = ended.json
    assert found["problems"] == []
    engines = {e["engine"]: e for e in found["engines"]}
    assert engines["openvino"]["runs"] and engines["onnxruntime"]["runs"]
    assert engines["tensorrt-rtx"]["builds"] and not engines["tensorrt-rtx"]["runs"]
    (last,) = (line for line in text.splitlines() if line.startswith("no problems: "))
    assert "openvino built and ran a probe in INT8" in last
    assert "tensorrt-rtx built a probe in INT8" in last
    assert "builds plans here; running them needs an NVIDIA RTX GPU" in text


def test_a_conflict_ends_with_1_and_the_command_that_cures_it() -> None:
    both = {"onnxruntime", "onnxruntime-gpu", "numpy"}
    with mock.patch.object(doctor, "installed", return_value=both):
        ended = run_here("doctor")
        problems = run_here("doctor", "--json").json["problems"]
    assert ended.code == 1
    assert "PROBLEM    onnxruntime and onnxruntime-gpu are both installed" in ended.out
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in ended.out
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (set(), 0),
        ({"onnxruntime"}, 0),
        ({"onnxruntime-gpu"}, 0),
        ({"onnxruntime", "onnxruntime-gpu"}, 1),
    ],
)
def test_conflicts(names: set[str], count: int) -> None:
    lines = doctor.conflicts(names)
    assert len(lines) == count
    assert all("Fix: pip" in line for line in lines)


def test_a_default_engine_that_computes_wrongly_is_a_problem() -> None:
    from deploy.engines.openvino import OpenVinoSession

    wrong = mock.patch.object(OpenVinoSession, "run", lambda self, arrays: {"y": arrays["x"] * 0})
    with wrong, mock.patch.object(doctor, "installed", return_value=set()):
        ended = run_here("doctor")
    assert ended.code == 1
    assert "the default engine openvino does not work" in ended.out


@pytest.mark.parametrize("there", [True, False])
def test_a_broken_library_is_not_called_absent(there: bool) -> None:
    names = {"openvino-telemetry", *(["openvino"] if there else [])}
    with (
        mock.patch.dict(sys.modules, {"openvino": None}),
        mock.patch.object(doctor, "installed", return_value=names),
    ):
        ended = run_here("doctor")
        found = run_here("doctor", "--json").json["problems"]
    assert ended.code == 1
    assert ("openvino is not installed: pip install" in ended.out) is not there
    assert ("openvino is installed (openvino) and broken: ModuleNotF" in ended.out) is there
    assert len(found) == 1


def test_a_shadowed_package_stops_all_commands_but_doctor(tmp_path: Path) -> None:
    stranger = importlib.util.spec_from_file_location("calib", tmp_path / "calib" / "__init__.py")
    real = importlib.util.find_spec
    find = mock.patch.object(
        importlib.util, "find_spec", lambda n, *a: stranger if n == "calib" else real(n, *a)
    )
    with find, mock.patch.object(doctor, "installed", return_value=set()):
        run_here("inspect", "x").refused(2, "'calib'", str(tmp_path), "environment of its own")
        ended = run_here("doctor")
    assert ended.code == 1
    assert f"PROBLEM    the package 'calib' comes from {tmp_path}" in ended.out
