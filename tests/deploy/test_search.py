"""``deploy build --target-drop``: what is kept in float, why, at what latency, and refusals."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from deploy.bundle import open_bundle
from deploy.search import measuring
from tests.deploy.planting import CONSUMERS
from tests.deploy.running import Ended, left_behind, run_here, start

VALUE = "bert.encoder.layer.1.attention.self.value"
ATTENTION = "*layer.1.attention.self.*"


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "ROUNDS", 3)
    monkeypatch.setattr(measuring, "ROUND_MS", 1.0)


@pytest.fixture
def line(planted_onnx: Path, arrays: Path, held_out: Path, tmp_path: Path) -> tuple[Any, ...]:
    return (
        "build", planted_onnx, "--int8", "--calib", "minmax", "--calib-data", arrays,
        "--engine", "onnxruntime", "--eval-data", held_out, "--eval-samples", 24,
        "-o", tmp_path / "found",
    )  # fmt: skip


def build(line: tuple[Any, ...], *more: Any) -> Ended:
    return run_here(*line, *more)


def test_the_fewest_that_hold_are_kept(line: tuple[Any, ...], tmp_path: Path) -> None:
    ended = build(line, "--target-drop", 0.5)
    assert ended.code == 0, ended.err
    manifest = open_bundle(tmp_path / "found").manifest
    reasons = {m.name: m.reason for m in manifest.matmuls}
    assert reasons[VALUE] == "kept in float by search: target drop 0.5"
    assert [name for name, reason in reasons.items() if "search" in reason] == [VALUE]
    search = manifest.search
    assert search is not None
    assert (search.held, search.ended, search.kept) == (True, "complete", [VALUE])
    assert [len(c.kept) for c in search.candidates] == [0, 1]
    everything, taken = search.candidates
    assert everything.drop.low > 0.5 > taken.drop.value > 0
    assert taken.on_front, "it loses less than what is quantized whole"
    for c in search.candidates:
        assert 0 < c.latency_ms.low <= c.latency_ms.value <= c.latency_ms.high
        assert c.value == pytest.approx(1 - c.drop.value / 100, abs=1e-6)
    assert manifest.engines["onnxruntime"].int8_matmuls == 12
    for text in (ended.out, run_here("inspect", tmp_path / "found").out):
        assert "target drop 0.5 points of cosine held, with 1 matmuls kept in float" in text
        assert f"kept in float: {VALUE}" in text
        (row,) = (row for row in text.splitlines() if row.endswith("taken"))
        assert "  1 in float: drop +" in row and "[MEASURED]" in row
    again = build(line, "--target-drop", 0.5)
    assert again.code == 0 and "up to date" in again.out
    build(line, "--target-drop", 0.6).refused(2, "other search")


def test_the_engine_of_the_bundle_holds_what_the_search_measured(
    line: tuple[Any, ...], held_out: Path, tmp_path: Path
) -> None:
    ended = build(line, "--target-drop", 0.05, "--int8-only", ATTENTION)
    assert ended.code == 0, ended.err
    search = open_bundle(tmp_path / "found").manifest.search
    assert search is not None
    taken = next(c for c in search.candidates if c.kept == search.kept)
    assert set(taken.kept) < CONSUMERS and len(taken.kept) == 2
    out = tmp_path / "results.jsonl"
    ended = run_here(
        "profile", tmp_path / "found", "--data", held_out, "--samples", 24, "--rounds", 3,
        "--round-ms", 1, "-o", out, "--json",
    )  # fmt: skip
    (int8,) = (row for row in ended.json if row["precision"] == "int8")
    assert int8["accuracy"][0]["value"] == pytest.approx(taken.value, abs=1e-7)


def test_nothing_is_kept_where_all_of_int8_holds(line: tuple[Any, ...], tmp_path: Path) -> None:
    ended = build(line, "--target-drop", 5, "--json")
    assert ended.code == 0, ended.err
    search = ended.json["search"]
    assert search["held"] and search["kept"] == [] and len(search["candidates"]) == 1
    assert not any("search" in m.reason for m in open_bundle(tmp_path / "found").manifest.matmuls)


def test_a_target_out_of_reach_builds_the_least_drop_and_says_so(
    line: tuple[Any, ...], tmp_path: Path
) -> None:
    ended = build(line, "--target-drop", 1e-9, "--int8-only", ATTENTION)
    assert ended.code == 1
    assert "target drop 1e-09 points not reached" in ended.err
    assert "NOT held; this is the least drop found" in ended.out
    search = open_bundle(tmp_path / "found").manifest.search
    assert search is not None and not search.held and search.ended == "complete"
    assert len(search.kept) == 2
    assert min(c.drop.value for c in search.candidates) == next(
        c.drop.value for c in search.candidates if c.kept == search.kept
    )
    assert build(line, "--target-drop", 1e-9, "--int8-only", ATTENTION).code == 1


def test_a_budget_too_small_measures_one_candidate(line: tuple[Any, ...], tmp_path: Path) -> None:
    ended = build(line, "--target-drop", 0.5, "--time-budget", 1e-6)
    assert ended.code == 1
    assert "search time budget after" in ended.out
    search = open_bundle(tmp_path / "found").manifest.search
    assert search is not None and search.ended == "time budget" and not search.held
    assert [c.kept for c in search.candidates] == [[]]


def test_ctrl_c_leaves_nothing(line: tuple[Any, ...], tmp_path: Path) -> None:
    process = start(*line, "--target-drop", 1e-9)
    assert process.stderr is not None
    for text in process.stderr:
        if "in float: drop" in text:
            process.send_signal(signal.SIGINT)
            break
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert left_behind(tmp_path, tmp_path / "found") == []


def test_a_smoothed_model_is_searched_too(line: tuple[Any, ...], tmp_path: Path) -> None:
    ended = build(
        line, "--smooth", "shift-scale", "--target-drop", 1e-4, "--int8-only", ATTENTION
    )  # fmt: skip
    assert ended.code in (0, 1), ended.err
    bundle = open_bundle(tmp_path / "found")
    search = bundle.manifest.search
    assert search is not None and search.kept and bundle.manifest.smoothed
    drops = {len(c.kept): c.drop.value for c in search.candidates}
    assert drops[0] < 0.5 and drops[len(search.kept)] < drops[0]


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--target-drop", 0), 2, "--target-drop is 0; expected more than 0"),
        (("--target-drop", -1), 2, "--target-drop is -1"),
        (("--target-drop", "nan"), 2, "--target-drop is nan"),
        (("--target-drop", 1, "--time-budget", 0), 2, "--time-budget is 0 s"),
        (("--target-drop", 1, "--eval-samples", 0), 2, "--eval-samples is 0"),
        (("--target-drop", 1, "--eval-data", "CALIB"), 2, "is the calibration data"),
        (("--target-drop", 1, "--eval-data", "nowhere"), 10, "no data at nowhere"),
        (("--target-drop", 1, "--eval-data", ""), 2, "eval-data is empty"),
        (("--target-drop", 1, "--engine", "tensorrt-rtx"), 2, "runs on this machine"),
        ((), 2, "--eval-data without --target-drop"),
    ],
)
def test_what_cannot_be_is_refused(
    line: tuple[Any, ...],
    arrays: Path,
    tmp_path: Path,
    more: tuple[Any, ...],
    code: int,
    words: str,
) -> None:
    build(line, *(arrays if word == "CALIB" else word for word in more)).refused(code, words)
    assert left_behind(tmp_path, tmp_path / "found") == []


def test_a_target_needs_data(planted_onnx: Path, arrays: Path, tmp_path: Path) -> None:
    line = ("build", planted_onnx, "--int8", "--calib-data", arrays, "-o", tmp_path / "found")
    run_here(*line, "--target-drop", 1).refused(2, "--target-drop needs evaluation data")


def test_the_calibration_data_may_be_forced(line: tuple[Any, ...], arrays: Path) -> None:
    ended = build(line, "--target-drop", 5, "--eval-data", arrays, "--eval-on-calib", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["search"]["data"] == arrays.name
