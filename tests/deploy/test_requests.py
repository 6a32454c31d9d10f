"""What happens when OUT is there already."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from deploy.bundle import open_bundle
from tests.deploy.running import STAGING, run_here


@pytest.fixture
def line(float_onnx: Path, arrays: Path) -> tuple[object, ...]:
    return ("build", float_onnx, "--int8", "--calib-data", arrays, "--engine", "onnxruntime")


@pytest.fixture
def out(line: tuple[object, ...], tmp_path: Path) -> Path:
    target = tmp_path / "out"
    assert run_here(*line, "-o", target).code == 0
    return target


def test_the_same_request_is_up_to_date(line: tuple[object, ...], out: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    ended = run_here(*line, "-o", out)
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == f"{out}: up to date"
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    assert run_here(*line, "-o", out, "--json").json["built"] is False


@pytest.mark.parametrize(
    "change",
    [
        ("--percentile", 99.9),
        ("--calib", "mse"),
        ("--seed", 1),
        ("--calib-samples", 8),
        ("--batch-size", 4),
        ("--engine", "openvino"),
        ("--golden-from-calib",),
        ("--quantize-head",),
    ],
    ids=lambda change: str(change[0]),
)
def test_another_request_is_refused_without_force(
    line: tuple[object, ...], out: Path, change: tuple[object, ...]
) -> None:
    before = open_bundle(out).sha256
    run_here(*line, *change, "-o", out).refused(2, str(out), "another build", "--force")
    assert open_bundle(out).sha256 == before


def test_the_refusal_names_the_options_that_differ(line: tuple[object, ...], out: Path) -> None:
    ended = run_here(*line, "--seed", 3, "--percentile", 99, "-o", out)
    ended.refused(2, "other calib, percentile, seed")


def test_force_replaces_a_bundle(line: tuple[object, ...], out: Path) -> None:
    ended = run_here(*line, "--percentile", 99, "--force", "-o", out)
    assert ended.code == 0, ended.err
    assert open_bundle(out).manifest.calibration.percentile == 99
    assert not [p for p in out.parent.iterdir() if STAGING in p.name]


def test_a_failing_build_with_force_keeps_the_old_bundle(
    line: tuple[object, ...], out: Path, tmp_path: Path
) -> None:
    before = open_bundle(out).sha256
    blank = tmp_path / "blank.txt"
    blank.write_text("\n")
    run_here(*line, "--calib-data", blank, "--force", "-o", out).refused(10, str(blank))
    assert open_bundle(out).sha256 == before


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_no_bundle_is_not_replaced_without_force(
    line: tuple[object, ...], tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "mine"
    if kind == "folder":
        target.mkdir()
        (target / "thesis.txt").write_text("precious")
    elif kind == "file":
        target.write_text("precious")
    else:
        target.symlink_to(tmp_path / "nowhere")
    run_here(*line, "-o", target).refused(2, str(target), "not a bundle", "--force")
    if kind == "folder":
        assert (target / "thesis.txt").read_text() == "precious"
    elif kind == "file":
        assert target.read_text() == "precious"
    else:
        assert target.is_symlink()


def test_without_o_the_bundle_is_named_after_model_and_estimator(
    line: tuple[object, ...], tmp_path: Path
) -> None:
    ended = run_here(*line, "--calib", "minmax", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "bundles/bert-int8-minmax: 1" in ended.out
    assert open_bundle(tmp_path / "bundles" / "bert-int8-minmax")


def test_a_tampered_bundle_is_not_up_to_date(line: tuple[object, ...], out: Path) -> None:
    (out / "model.onnx").write_bytes(b"x")
    run_here(*line, "-o", out).refused(9, "model.onnx was changed", "--force")


def test_other_weights_under_the_same_name_are_another_request(
    line: tuple[object, ...], out: Path, arrays: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "external"
    folder.mkdir()
    graph = onnx.load(str(line[1]))
    onnx.save(
        graph, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    line = ("build", folder / "m.onnx", *line[2:])
    target = tmp_path / "second"
    assert run_here(*line, "-o", target).code == 0
    assert "up to date" in run_here(*line, "-o", target).out
    raw = bytearray((folder / "m.data").read_bytes())
    raw[len(raw) // 2 :] = bytes(len(raw) - len(raw) // 2)
    (folder / "m.data").write_bytes(raw)
    run_here(*line, "-o", target).refused(2, "other model")
