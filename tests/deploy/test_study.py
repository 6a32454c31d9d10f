"""A real study: cells that fail, cells that time, and a second run of the same folder."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from deploy.bundle import open_bundle
from deploy.profiling.results import read_results
from deploy.study.cells import cells_from_study
from deploy.study.jobs import Job, Processes
from deploy.study.running import run_study
from deploy.study.schema import read_study
from deploy.study.state import StudyFolder
from tests.deploy.running import Ended, run_here, start
from tests.deploy.studying import LONGEST_S, jobs_of, overlaps, spans, statuses, until, write_study
from trueint8.progress import Silence

AXES = {"calib": ["minmax", "mse"]}
FAILING = [{"percentile": 0.0}]


@dataclass(frozen=True)
class Ran:
    """A study that ran beside another one on this machine."""

    file: Path
    out: Path
    ended: Ended
    other: Path


@pytest.fixture(scope="module")
def ran(
    tmp_path_factory: pytest.TempPathFactory, float_onnx: Path, arrays: Path, held_out: Path
) -> Ran:
    home, beside = tmp_path_factory.mktemp("study"), tmp_path_factory.mktemp("beside")
    file = write_study(home, float_onnx, arrays, held_out, axes=AXES, include=FAILING)
    second = write_study(beside, float_onnx, arrays, held_out, axes={"seed": [1]})
    other = start("study", second, "-o", beside / "out")
    process = start("study", file, "-o", home / "out", "--jobs", 2)
    out, err = process.communicate(timeout=300)
    _, other_err = other.communicate(timeout=300)
    assert other.returncode == 0, other_err
    return Ran(file, home / "out", Ended(process.returncode, out, err), beside / "out")


@pytest.fixture
def copy(ran: Ran, tmp_path: Path) -> Ran:
    """The study where it may be changed."""
    home = Path(shutil.copytree(ran.file.parent, tmp_path / "copy"))
    return replace(ran, file=home / "study.yaml", out=home / "out")


def test_a_failed_cell_is_told_and_the_others_are_there(ran: Ran) -> None:
    assert ran.ended.code == 1, ran.ended.err
    assert "Traceback" not in ran.ended.err
    lines = ran.ended.out.splitlines()
    done = [line for line in lines if line.startswith("bert calib=") and " done " in line]
    assert len(done) == 2
    for line in done:
        assert "MEASURED" in line and "×" in line and "cosine" in line and "%" in line
    assert any(line.startswith("bert percentile=0.0  failed") for line in lines)
    assert "bert percentile=0.0 failed at build: percentile q=0 is out of range" in ran.ended.out
    assert "fix: pass --percentile 99.99; then --retry-failed" in ran.ended.out
    assert "[3/3] " in ran.ended.err


def test_the_results_are_those_of_the_cells_that_ended_well(ran: Ran, tmp_path: Path) -> None:
    rows = read_results(ran.out / "results.jsonl")
    assert {row.bundle for row in rows} == {"bert_calib=minmax", "bert_calib=mse"}
    assert len({row.session for row in rows}) == 2
    ended = run_here("report", ran.out / "results.jsonl", "-o", tmp_path / "report.html")
    assert ended.code == 0, ended.err
    assert "bert_calib=mse" in (tmp_path / "report.html").read_text("utf-8")


def test_a_timed_cell_has_the_machine_to_itself(ran: Ran) -> None:
    found = spans(ran.out, ran.other)
    assert sum(span.timed for span in found) == 3
    assert sum(not span.timed for span in found) == 4
    assert not overlaps(found)


def test_a_second_run_does_nothing_again(copy: Ran) -> None:
    before = statuses(copy.out)
    ended = run_here("study", copy.file, "-o", copy.out, "--json")
    assert ended.code == 1
    assert statuses(copy.out) == before
    assert [cell["status"] for cell in ended.json["cells"]] == ["done", "done", "failed"]
    assert ended.json["cells"][2]["failure"]["error"] == "ConfigError"
    (figures,) = ended.json["cells"][0]["figures"]
    assert figures["kind"] == "MEASURED" and figures["int8_ms"]["value"] > 0
    assert figures["coverage"] == pytest.approx(1, abs=0.5)


def test_a_changed_study_keeps_what_is_still_in_it(
    copy: Ran, float_onnx: Path, arrays: Path, held_out: Path
) -> None:
    before = statuses(copy.out)
    rows = (copy.out / "results.jsonl").read_bytes().splitlines()
    write_study(copy.file.parent, float_onnx, arrays, held_out, axes={"calib": ["mse"]})
    ended = run_here("study", copy.file, "-o", copy.out, "--quiet")
    assert ended.code == 0, ended.err
    assert statuses(copy.out) == before, "also what is no longer in it stays on disk"
    left = (copy.out / "results.jsonl").read_bytes().splitlines()
    assert left and set(left) < set(rows)
    assert {row.bundle for row in read_results(copy.out / "results.jsonl")} == {"bert_calib=mse"}


def test_what_failed_is_tried_again_when_asked(copy: Ran) -> None:
    before = statuses(copy.out)
    ended = run_here("study", copy.file, "-o", copy.out, "--retry-failed", "--quiet")
    assert ended.code == 1
    after = statuses(copy.out)
    assert after.keys() == before.keys()
    changed = {name for name in before if before[name] != after[name]}
    failed = {name for name, text in before.items() if json.loads(text)["failure"]}
    assert changed == failed and len(failed) == 2
    assert "bert percentile=0.0 failed at build" in ended.err and not ended.out


def test_a_job_that_is_killed_fails_and_others_go_on(copy: Ran) -> None:
    for file in copy.out.glob("cells/*/results.jsonl"):
        file.unlink()
    process = start("study", copy.file, "-o", copy.out, "--json")

    def profiling() -> list[psutil.Process]:
        return [job for job in jobs_of(copy.out) if "profile" in job.info["cmdline"]]

    until(profiling, process)
    profiling()[0].kill()
    out, err = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 1, err
    cells = json.loads(out)["cells"]
    assert sorted(cell["status"] for cell in cells) == ["done", "failed", "failed"]
    problems = [cell["failure"]["problem"] for cell in cells if cell["failure"]]
    assert "the process died (out of memory, or killed)" in problems


def test_two_runs_in_one_folder(copy: Ran) -> None:
    with StudyFolder(copy.out).locked():
        ended = run_here("study", copy.file, "-o", copy.out)
    ended.refused(2, "another study is running in")


class QueueLikeSubmitit:
    """A backend over a queue whose jobs are asked whether they are done, as submitit's are."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []

    def submit(self, job: Job) -> Future[None]:
        self.asked.append((job.step, job.timed))
        future: Future[None] = Future()
        thread = threading.Thread(target=Processes().run, args=(job,))
        thread.start()

        def wait() -> None:
            thread.join()
            future.set_result(None)

        threading.Thread(target=wait).start()
        return future

    def close(self) -> None:
        """Nothing is left when all futures are done."""


def test_another_queue_fits(copy: Ran) -> None:
    (cell, *_) = cells = cells_from_study(read_study(copy.file), copy.file)
    folder = StudyFolder(copy.out)
    (folder.of(cell) / "results.jsonl").unlink()
    shutil.rmtree(next(folder.of(cell.build).glob("bert*")))
    queue = QueueLikeSubmitit()
    with folder.locked():
        ended = run_study(
            cells, folder, queue, Silence(),
            home=copy.file.parent, retry_failed=False, tell=lambda each: each.cell.label,
        )  # fmt: skip
    assert queue.asked == [("build", False), ("profile", True)], "what was removed"
    assert ended[0].status is not None and ended[0].status.failure is None
    assert open_bundle(next(folder.of(cell.build).glob("bert*"))).manifest.seed == 0
