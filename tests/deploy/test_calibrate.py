"""``deploy calibrate``: a file any estimator can use, merged runs, resumed runs, and refusals."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import calib.collector
from calib.ranges import Ranges, read_ranges
from calib.stats import TensorStats
from deploy.bundle import open_bundle
from tests.deploy.running import run_here, start

CALIBRATE = ("calibrate", "--calib-samples", 16, "--batch-size", 4)


def assert_same(a: TensorStats, b: TensorStats) -> None:
    for name in ("points", "weights", "bins", "counts"):
        np.testing.assert_array_equal(getattr(a.histogram, name), getattr(b.histogram, name))
    for name in ("channel_minimum", "channel_maximum"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.minimum, a.maximum, a.exact) == (b.minimum, b.maximum, b.exact)
    assert a.moments.count == b.moments.count
    for power in ("m2", "m4"):
        assert getattr(a.moments, power) == pytest.approx(getattr(b.moments, power), rel=1e-6)


@pytest.fixture
def ranges(float_onnx: Path, arrays: Path, tmp_path: Path) -> Path:
    out = tmp_path / "ranges.safetensors"
    ended = run_here(*CALIBRATE, float_onnx, "--calib-data", arrays, "-o", out)
    assert ended.code == 0, ended.err
    return out


def test_the_table_and_the_file_say_the_same(
    float_onnx: Path, arrays: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r.safetensors"
    line = (*CALIBRATE, float_onnx, "--calib-data", arrays, "--calib", "mse", "-o", out)
    ended = run_here(*line, "--json")
    told = json.loads(ended.out)
    assert told["kind"] == "SIMULATED"
    table = load_file(out)
    for row in told["tensors"]:
        assert table[f"{row['tensor']}/range"].tolist() == [row["low"], row["high"]]
        assert table[f"{row['tensor']}/scale"][0] == pytest.approx(row["high"] / 127)
        assert 0 <= row["clipped"] < 0.01
        assert 20 < row["sqnr_db"] < 60
    assert read_ranges(out).data[0].samples == told["data"][0]["samples"] == 16
    shown = run_here(*line, "--force")
    assert "[SIMULATED]" in shown.out and "SQNR dB" in shown.out
    assert all(row["tensor"] in shown.out for row in told["tensors"])


def test_a_build_from_ranges_is_the_build_from_the_data(
    ranges: Path, float_onnx: Path, arrays: Path, tmp_path: Path
) -> None:
    graphs = []
    for name, more in (("direct", ()), ("ranges", ("--ranges", ranges))):
        ended = run_here(
            "build", float_onnx, "--int8", "--calib", "mse", "--calib-data", arrays,
            "--calib-samples", 16, "--batch-size", 4, "--engine", "onnxruntime",
            "-o", tmp_path / name, *more,
        )  # fmt: skip
        assert ended.code == 0, ended.err
        graphs.append((tmp_path / name / "model.int8.onnx").read_bytes())
    assert graphs[0] == graphs[1]
    assert open_bundle(tmp_path / "ranges").manifest.calibration.samples == 16


def test_merged_runs_over_parts_equal_one_over_all(
    float_onnx: Path, arrays: Path, ranges: Path, tmp_path: Path
) -> None:
    whole = np.load(arrays)
    parts = []
    for index, part in enumerate((slice(0, 4), slice(4, 16))):
        data = tmp_path / f"part{index}.npz"
        np.savez(data, allow_pickle=False, **{k: v[part] for k, v in whole.items()})
        out = tmp_path / f"part{index}.safetensors"
        ended = run_here(*CALIBRATE, float_onnx, "--calib-data", data, "-o", out)
        assert ended.code == 0, ended.err
        parts.append(out)
    merged = tmp_path / "merged.safetensors"
    ended = run_here("calibrate", "--merge", *parts, "-o", merged)
    assert ended.code == 0, ended.err
    assert "16 sequences" in ended.out
    found, expected = read_ranges(merged), read_ranges(ranges)
    assert found.graph == expected.graph
    for name, stats in expected.stats.items():
        assert_same(found.stats[name], stats)
    again = run_here("calibrate", "--merge", parts[0], parts[0], "-o", tmp_path / "twice")
    again.refused(6, "both hold the same pass over part0.npz")


class Killed(BaseException):
    """Stands for a signal that leaves no time for anything."""


def test_a_killed_run_goes_on_where_it_stopped(
    float_onnx: Path, arrays: Path, ranges: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "again.safetensors"
    line = (*CALIBRATE, float_onnx, "--calib-data", arrays, "-o", out)
    monkeypatch.setattr(calib.collector, "KEEP_EVERY_S", 0.0)
    refuse = calib.collector._refuse_nonfinite

    def stop(name: str, nonfinite: int, batch: int) -> None:
        if batch == 2:
            raise Killed
        refuse(name, nonfinite, batch)

    monkeypatch.setattr(calib.collector, "_refuse_nonfinite", stop)
    with pytest.raises(Killed):
        run_here(*line)
    assert not out.exists()
    partial = tmp_path / ".again.safetensors.partial"
    assert read_ranges(partial).data[0].batches == 2
    monkeypatch.setattr(calib.collector, "_refuse_nonfinite", refuse)
    ended = run_here(*line)
    assert ended.code == 0, ended.err
    assert "going on after batch 2 of 4" in ended.err
    assert not partial.exists()
    found, expected = read_ranges(out), read_ranges(ranges)
    for name, stats in expected.stats.items():
        assert_same(found.stats[name], stats)
        assert found.stats[name].running_maximum == stats.running_maximum


def test_ctrl_c_leaves_no_file(float_onnx: Path, arrays: Path, tmp_path: Path) -> None:
    out = tmp_path / "ranges.safetensors"
    process = start(*CALIBRATE, float_onnx, "--calib-data", arrays, "-o", out)
    assert process.stderr is not None
    for text in process.stderr:
        if text.strip() == "read ONNX ...":
            process.send_signal(signal.SIGINT)
            break
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_ranges_of_another_graph_are_refused(
    ranges: Path, checkpoint: object, arrays: Path, calibration: Path, tmp_path: Path
) -> None:
    ended = run_here(
        "build", checkpoint("roberta"), "--int8", "--ranges", ranges,  # type: ignore[operator]
        "--calib-data", calibration, "--seq-len", 32, "--engine", "onnxruntime",
        "-o", tmp_path / "o",
    )  # fmt: skip
    ended.refused(6, "the ranges are of another graph")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--merge", "one.safetensors"), 2, "nothing to merge"),
        (("--merge", "one.safetensors", "two.safetensors"), 9, "is not a whole safetensors file"),
        (("a", "b"), 2, "one model is calibrated at a time, not 2"),
        (("--percentile", "0"), 2, "percentile q=0 is out of range"),
        (("--percentile", "100.5"), 2, "percentile q=100.5 is out of range"),
        (("--calib", "mes"), 3, "did you mean 'mse'"),
    ],
)
def test_what_cannot_be_is_refused(
    more: tuple[str, ...], code: int, words: str, tmp_path: Path
) -> None:
    (tmp_path / "one.safetensors").write_bytes(b"\0" * 40)
    run_here("calibrate", *more, cwd=tmp_path).refused(code, words)


def test_what_is_there_is_kept(ranges: Path, float_onnx: Path, arrays: Path) -> None:
    before = ranges.read_bytes()
    ended = run_here(*CALIBRATE, float_onnx, "--calib-data", arrays, "-o", ranges)
    ended.refused(2, "exists", "--force")
    assert ranges.read_bytes() == before
    assert isinstance(read_ranges(ranges), Ranges)


def test_one_sample_is_warned_of(float_onnx: Path, arrays: Path, tmp_path: Path) -> None:
    line = ("--calib-data", arrays, "--calib-samples", 1)
    ended = run_here("calibrate", float_onnx, *line, "-o", tmp_path / "r")
    assert ended.code == 0
    assert "warning: calibrated on 1 sequence; 128 or more are advised" in ended.err
    ended = run_here(
        "build", float_onnx, "--int8", *line, "--engine", "onnxruntime", "-o", tmp_path / "o"
    )
    assert "warning: calibrated on 1 sequence; 128 or more" in ended.err
    assert open_bundle(tmp_path / "o").manifest.warnings == [
        "calibrated on 1 sequence; 128 or more are advised"
    ]
