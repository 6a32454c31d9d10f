"""What signals, kills and imports do to the real process."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.bundle import Bundle, open_bundle
from tests.deploy.conftest import GRAPH_ENGINES, SEQUENCE
from tests.deploy.running import STAGING, Ended, left_behind, run_process, start

Checkpoint = Callable[[str], Path]

REPRODUCED = ("model.onnx", "model.int8.onnx", "ranges.safetensors", "golden.safetensors")


@pytest.fixture
def line(checkpoint: Checkpoint, calibration: Path, tmp_path: Path) -> tuple[object, ...]:
    return (
        "build", checkpoint("bert"), "--int8", "--calib", "minmax", "--calib-data",
        calibration, "--calib-samples", 16, "--seq-len", SEQUENCE, "--engine", GRAPH_ENGINES,
        "-o", tmp_path / "out",
    )  # fmt: skip


@pytest.fixture
def quick(float_onnx: Path, arrays: Path, tmp_path: Path) -> tuple[object, ...]:
    """A build without the export, which is most of the time."""
    return (
        "build", float_onnx, "--int8", "--calib-data", arrays, "--engine", "all",
        "-o", tmp_path / "out",
    )  # fmt: skip


def _signalled(line: tuple[object, ...], stage: str, number: signal.Signals) -> Ended:
    process = start(*line)
    assert process.stderr is not None
    seen = ""
    for text in process.stderr:
        seen += text
        if text.strip() == stage:
            process.send_signal(number)
            break
    out, rest = process.communicate(timeout=120)
    return Ended(process.returncode, out, seen + rest)


@pytest.mark.parametrize(
    ("kind", "stage"),
    [
        ("line", "export to ONNX ..."),
        ("quick", "calibrate ..."),
        ("quick", "build openvino ..."),
        ("quick", "build tensorrt-rtx ..."),
        ("quick", "check tensorrt-rtx ..."),
    ],
)
def test_ctrl_c_ends_with_130_and_leaves_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, stage: str
) -> None:
    ended = _signalled(request.getfixturevalue(kind), stage, signal.SIGINT)
    assert ended.code == 130, ended.err
    assert "interrupted" in ended.err
    assert "Traceback" not in ended.err, ended.err
    assert not left_behind(tmp_path, tmp_path / "out")


def test_sigterm_ends_with_143_and_leaves_nothing(
    quick: tuple[object, ...], tmp_path: Path
) -> None:
    ended = _signalled(quick, "build onnxruntime ...", signal.SIGTERM)
    assert ended.code == 143, ended.err
    assert "Traceback" not in ended.err, ended.err
    assert not left_behind(tmp_path, tmp_path / "out")


def _kill_at(
    line: tuple[object, ...], tmp_path: Path, unkilled: Bundle, moments: list[float]
) -> None:
    """Kill a build after each of ``moments`` seconds; check what is there, and the next build."""
    out = tmp_path / "out"
    for seconds in moments:
        process = start(*line)
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        if out.exists():
            _same(open_bundle(out), unkilled)
    ended = run_process(*line)
    assert ended.code == 0, ended.err
    _same(open_bundle(out), unkilled)
    assert [p.name for p in tmp_path.iterdir() if STAGING in p.name] == []


def _same(bundle: Bundle, unkilled: Bundle) -> None:
    for name in REPRODUCED:
        assert bundle.manifest.files[name].sha256 == unkilled.manifest.files[name].sha256
    assert set(bundle.manifest.files) == set(unkilled.manifest.files)


def test_a_killed_build_leaves_nothing_or_a_whole_bundle(
    quick: tuple[object, ...], tmp_path: Path
) -> None:
    assert run_process(*quick[:-1], tmp_path / "whole").code == 0
    process = start(*quick)
    assert process.stderr is not None
    for text in process.stderr:
        if text.startswith("build openvino"):
            break
    process.kill()
    process.communicate()
    assert not (tmp_path / "out").exists()
    assert [p for p in tmp_path.iterdir() if STAGING in p.name], "killed too early to matter"
    _kill_at(quick, tmp_path, open_bundle(tmp_path / "whole"), [2.0])


@pytest.mark.slow
def test_ten_kills_spread_over_a_build(
    line: tuple[object, ...], tmp_path: Path, built: Callable[[str], Bundle]
) -> None:
    begun = time.monotonic()
    assert run_process(*line[:-1], tmp_path / "whole").code == 0
    whole = time.monotonic() - begun
    draw = random.Random(20261)
    moments = [whole * (i + draw.random()) / 10 for i in range(10)]
    _kill_at(line, tmp_path, built("bert"), moments)


def test_a_running_build_is_not_swept_away_by_another(
    quick: tuple[object, ...], tmp_path: Path
) -> None:
    first = start(*quick)
    assert first.stderr is not None
    for text in first.stderr:
        if text.startswith("calibrate"):
            first.send_signal(signal.SIGSTOP)
            break
    second = run_process(*quick, "--percentile", 99)
    assert second.code == 0, second.err
    first.send_signal(signal.SIGCONT)
    out, err = first.communicate(timeout=120)
    Ended(first.returncode, out, err).refused(2, "appeared while it was being built", "--force")
    assert open_bundle(tmp_path / "out").manifest.calibration.percentile == 99
    assert not [p for p in tmp_path.iterdir() if STAGING in p.name]


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--force",)], ids=["", "force"])
def test_two_builds_of_one_target_leave_one_whole_bundle(
    quick: tuple[object, ...], tmp_path: Path, more: tuple[object, ...]
) -> None:
    line = (*quick[:5], "--engine", "onnxruntime", "-o", tmp_path / "out", *more)
    both = [start(*line) for _ in range(2)]
    ends = [process.communicate(timeout=240) for process in both]
    for process, (_, err) in zip(both, ends, strict=True):
        assert process.returncode == 0, err
    assert open_bundle(tmp_path / "out").manifest.files
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    assert more or sum("up to date" in out for out, _ in ends) <= 1


@pytest.mark.parametrize("command", [["--help"], ["build", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('|'.join(sys.modules), file=sys.stderr))\n"
        "from deploy.cli import main\n"
        f"sys.argv = ['deploy', *{command}]\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    imported = {name.partition(".")[0] for name in ended.stderr.strip().split("|")}
    heavy = {"numpy", "torch", "transformers", "onnx", "onnx_ir", "onnxruntime", "openvino",
             "tensorrt_rtx", "pydantic", "rich", "yaml", "jinja2", "altair", "safetensors",
             "huggingface_hub", "psutil", "attention", "calib"}  # fmt: skip
    assert "deploy" in imported
    assert not imported & heavy


def test_help_names_every_command_and_the_kinds() -> None:
    text = run_process("--help").out
    for word in ("build", "demo", "doctor", "inspect", "profile", "report"):
        assert f"\n  {word} " in text
    for kind in ("MEASURED", "SIMULATED", "PREDICTED", "BUILT"):
        assert kind in text


def test_a_package_of_the_same_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "calib").mkdir()
    (tmp_path / "calib" / "__init__.py").write_text("")
    ended = run_process("--version", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    ended.refused(2, "'calib' comes from", str(tmp_path), "environment of its own")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    ended = run_process("inspect", tmp_path, "--debug")
    assert ended.code != 0
    assert "Traceback" in ended.err
    assert "IntegrityError" in ended.err


def test_a_reader_that_stops_early_is_no_error(bundle: Bundle) -> None:
    process = start("inspect", bundle.path)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.wait(timeout=60)
    error = process.stderr.read()
    process.stderr.close()
    assert process.returncode == 1
    assert error == ""


def test_an_engine_that_is_not_installed_gives_the_install_command(
    float_onnx: Path, arrays: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'tensorrt_rtx':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    line = ("build", float_onnx, "--int8", "--calib-data", arrays, "-o", tmp_path / "out")
    env = {"PYTHONPATH": str(site)}
    ended = run_process(*line, "--engine", "tensorrt-rtx", env=env)
    ended.refused(4, "tensorrt_rtx", "pip install 'trueint8[tensorrt-rtx]'")
    assert not left_behind(tmp_path, tmp_path / "out")
    automatic = run_process(*line, "--engine", "auto", env=env)
    assert automatic.code == 0, automatic.err
    assert "tensorrt-rtx" not in automatic.out
