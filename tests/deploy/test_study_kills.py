"""What a study leaves when it is killed or interrupted, and how it goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from deploy.profiling.results import read_results
from tests.deploy.running import STAGING, run_process, start
from tests.deploy.studying import jobs_of, overlaps, spans, statuses, until, write_study


@pytest.fixture
def study(tmp_path: Path, float_onnx: Path, arrays: Path, held_out: Path) -> Path:
    """Two cells on one bundle."""
    profile = {"rounds": 3, "round-ms": 1, "samples": [4, 5]}
    return write_study(tmp_path, float_onnx, arrays, held_out, profile=profile)


def half_written(out: Path) -> list[Path]:
    return [p for p in out.rglob("*") if STAGING in p.name or p.name.startswith(".status")]


def test_a_killed_study_goes_on_where_it_stopped(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("study", study, "-o", out)

    def second_runs() -> bool:
        logs = list(out.glob("cells/*/log.txt"))
        return len(logs) == 2 and all(b"load" in log.read_bytes() for log in logs)

    until(lambda: len(statuses(out)) == 2 and second_runs(), process)
    before = statuses(out)
    process.kill()
    process.communicate()
    assert sorted(name.partition("/")[0] for name in before) == ["builds", "cells"]
    until(lambda: not jobs_of(out))
    assert statuses(out) == before, "what the kill met is as if never begun"

    ended = run_process("study", study, "-o", out)
    assert ended.code == 0, ended.err
    assert "1 of 2 cells ended before, and are kept" in ended.err
    after = statuses(out)
    assert len(after) == 3
    assert {name: after[name] for name in before} == before
    assert not overlaps(spans(out))
    rows = read_results(out / "results.jsonl")
    assert len({row.session for row in rows}) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_study_ends_its_jobs_and_leaves_nothing(
    study: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    process = start("study", study, "-o", out)
    until(lambda: any(out.glob(f"builds/*/.*{STAGING}*")), process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], err
    assert "Traceback" not in err
    assert not jobs_of(out)
    assert not half_written(out)
    assert not statuses(out)
