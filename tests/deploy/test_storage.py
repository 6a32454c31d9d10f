"""Disks that are full or cannot be written: exit code 11, and nothing left behind."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.running import run_here


@pytest.fixture
def full_disk(tmp_path: Path) -> Any:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("a small file system cannot be mounted without privileges")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
@pytest.mark.parametrize("taken_kib", [0, 300, 560, 760, 900, 980, 1020])
def test_a_full_disk(float_onnx: Path, arrays: Path, full_disk: Path, taken_kib: int) -> None:
    (full_disk / "ballast").write_bytes(bytes(taken_kib * 1024))
    out = full_disk / "out"
    ended = run_here(
        "build", float_onnx, "--int8", "--calib-data", arrays, "-o", out,
        "--engine", "onnxruntime,openvino,tensorrt-rtx",
    )  # fmt: skip
    if taken_kib == 0 and ended.code == 0:
        return
    ended.refused(11, "no space left on the device", "-o")
    assert sorted(p.name for p in full_disk.iterdir()) == ["ballast"]


def test_a_folder_that_cannot_be_written(float_onnx: Path, arrays: Path, full_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(full_disk)], check=True)
    ended = run_here("build", float_onnx, "--int8", "--calib-data", arrays, "-o", full_disk / "out")
    ended.refused(11, str(full_disk), "cannot be written", "-o")
