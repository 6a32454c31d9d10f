"""``deploy profile``: launches, pairs, throughput, rebuilds, clocks, prefill and decode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deploy
from deploy.bundle import Bundle
from deploy.profiling.build_spread import spread_of
from deploy.profiling.rates import samples_per_s
from deploy.profiling.results import Rebuilds, Row, Throughput, read_results
from deploy.profiling.variants import ran_beside
from tests.deploy.checkpoints import write_arrays
from tests.deploy.running import run_here

QUICK: dict[str, Any] = {"round_ms": 1.0, "samples": 8, "batch_size": 2}


@pytest.fixture(scope="module")
def rows(bundle: Bundle, made: Path) -> list[Row]:
    data = write_arrays(made / "launches.npz", rows=8, length=8)
    more: dict[str, Any] = {"engines": ["onnxruntime"], "rounds": 4, "launches": 2, "streams": [2]}
    return deploy.profile([bundle.path], data=data, **QUICK, **more)


def test_rounds_are_spread_over_launches(rows: list[Row]) -> None:
    for row in rows:
        assert row.latency is not None
        assert (row.latency.launches, len(row.latency.rounds_ns)) == (2, 4)
        assert len(row.latency.blocks) == 4
        assert all(b.pss_mib and b.pss_mib > 0 for b in row.latency.blocks)
        assert len(row.load_s) == 2 and min(row.load_s) > 0
        assert row.data_sha256
    assert {row.graph: row.build_s is not None for row in rows} == {"float": False, "qdq": True}
    assert all(ran_beside(rows[0], row) for row in rows)


def test_every_stream_is_counted(rows: list[Row]) -> None:
    held = {row.configuration: row.throughput for row in rows}
    assert held.pop("simulated-fp32") == []
    for (found,) in held.values():
        assert (found.batch, found.streams, len(found.rounds)) == (2, 2, 4)
        assert all(len(streams) == 2 for streams in found.rounds)
        assert all(runs >= 1 and ns >= 1e6 for streams in found.rounds for runs, ns in streams)
        figure = samples_per_s(found)
        assert 0 < figure.low <= figure.value <= figure.high


def test_samples_per_second_are_batch_and_runs_by_time() -> None:
    """Two streams of 4 and 2 runs a second, with 8 sequences each."""
    rounds = [[(4, 10**9), (1, 5 * 10**8)]] * 5
    found = samples_per_s(Throughput(batch=8, streams=2, rounds=rounds, launches=1))
    assert (found.value, found.low, found.high) == (48.0, 48.0, 48.0)


def _rebuilds(shares: tuple[float, ...]) -> Rebuilds:
    """Return invented times of builds that differ by these shares; launches by 1 %."""
    draw = np.random.default_rng(0)
    times = 1e6 * np.array(shares)[:, None] * np.exp(draw.normal(0, 0.01, (len(shares), 6)))
    launches = [[[[int(t)] * 3] * 4 for t in build] for build in times]
    return Rebuilds(build_s=[1.0] * len(shares), distinct=1, launches_ns=launches)


def test_builds_that_differ_are_told_from_launches_that_do() -> None:
    alike, unlike = (
        spread_of(_rebuilds((1.0, 1.0, 1.0, 1.0))),
        spread_of(_rebuilds((1.0, 1.1, 0.9, 1.0))),
    )
    assert alike.chance > 0.01 > unlike.chance
    assert unlike.between == pytest.approx(np.std(np.log([1, 1.1, 0.9, 1]), ddof=1), rel=0.15)
    assert unlike.within == pytest.approx(0.01, rel=0.5)
    assert unlike.extremes == pytest.approx(1.1 / 0.9, rel=0.03)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--rebuilds", 1), ("1 rebuilds have no spread", "--rebuilds 2")),
        (("--streams", "two"), ("--streams two", "--streams 1,2")),
        (("--batch", "0"), ("below 1",)),
        (("--launches", 0), ("--launches is 0",)),
    ],
)
def test_efforts_that_mean_nothing(
    bundle: Bundle, tmp_path: Path, flags: tuple[object, ...], words: tuple[str, ...]
) -> None:
    data = write_arrays(tmp_path / "eval.npz", rows=8, length=8)
    line = ("profile", bundle.path, "--data", data, *flags)
    run_here(*line, cwd=tmp_path).refused(2, *words)


def test_a_processor_has_no_cuda_events(bundle: Bundle, tmp_path: Path) -> None:
    data = write_arrays(tmp_path / "eval.npz", rows=8, length=8)
    line = ("profile", bundle.path, "--data", data, "--engine", "onnxruntime", "--rounds", 3)
    ended = run_here(*line, "--round-ms", 1, "--clock", "kernels", cwd=tmp_path)
    ended.refused(8, "CUDA events", "--clock host")


@pytest.mark.slow
def test_builds_of_one_graph_are_timed_beside_each_other(bundle: Bundle, tmp_path: Path) -> None:
    data = write_arrays(tmp_path / "eval.npz", rows=8, length=8)
    out = tmp_path / "r.jsonl"
    line = ("profile", bundle.path, "--data", data, "--engine", "openvino", "--rounds", 3)
    ended = run_here(*line, "--round-ms", 1, "--samples", 8, "--rebuilds", 2, "-o", out)
    assert ended.code == 0, ended.err
    assert "2 builds, 1 distinct by content, slowest ÷ fastest" in ended.out
    (found,) = (row.rebuilds for row in read_results(out) if row.rebuilds is not None)
    assert [len(launches) for launches in found.launches_ns] == [4, 4]
    assert len(found.build_s) == 2 and min(found.build_s) > 0


@pytest.mark.slow
def test_prefill_and_decode_are_profiled_apart(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "onnx"
    assert run_here("export", checkpoint("opt"), "--kv-cache", "--seq-len", 16, "-o", out).code == 0
    for name, tokens in (("prefill", 15), ("decode", 1)):
        built = deploy.build(
            out / f"{name}.onnx",
            calib_data=out / f"{name}.npz",
            engine="openvino,onnxruntime",
            out=tmp_path / name,
        )
        rows = deploy.profile([built.path], data=out / f"{name}.npz", rounds=3, **QUICK)
        shapes = {(r.latency.batch, r.latency.sequence) for r in rows if r.latency is not None}
        assert shapes == {(2, tokens)}
        assert {r.model for r in rows} == {name}
        assert {r.engine for r in rows if r.precision == "int8"} == {"openvino", "onnxruntime"}
