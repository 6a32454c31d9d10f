"""``deploy profile`` and ``deploy report``: data, targets and engines they refuse, and how."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from calib.data import Samples
from deploy import demonstration, hardware
from deploy.bundle import Bundle
from deploy.profiling import evaluation, workers
from deploy.profiling.evaluation import EvaluationSet, evaluation_set
from deploy.profiling.measurement import ProfileRequest, measure
from deploy.profiling.scoring import accuracy_figures, score
from deploy.profiling.workers import WorkerProcess
from deploy.sessions import Configuration, Running
from tests.deploy.checkpoints import prose, write_arrays
from tests.deploy.running import run_here
from trueint8.errors import ConfigError, DataError, RunError, UnknownName
from trueint8.progress import Lines, Silence

Built = Callable[[str], Bundle]


def _evaluate(logits: np.ndarray, labels: list[int]) -> float:
    data = EvaluationSet("labels", [{"x": np.zeros((2, 4))}], [np.array(labels)])
    (figure,) = accuracy_figures(score(lambda batch: {"logits": logits}, data))
    return figure.value


def test_labels_are_held_against_the_logits() -> None:
    assert _evaluate(np.eye(2, 3), [0, 2]) == 0.5
    with pytest.raises(DataError, match="0 <= label < 3"):
        _evaluate(np.eye(2, 3), [0, 3])
    with pytest.raises(DataError, match=r"shape \(2, 4, 3\)"):
        _evaluate(np.zeros((2, 4, 3)), [0, 1])


def test_labels_that_only_some_have_are_refused(built: Built, tmp_path: Path) -> None:
    data = tmp_path / "eval.jsonl"
    labels = [0, 1, None, 2]
    rows = [{"text": t, "label": v} for t, v in zip(prose(4, 3), labels, strict=True)]
    data.write_text("\n".join(map(json.dumps, rows)))
    ended = run_here("profile", built("bert-classes").path, "--data", data, cwd=tmp_path)
    ended.refused(10, "some of the data has labels and some has none", "every example")


@pytest.mark.parametrize(
    "labels", [np.array([99] * 8), np.zeros(8), np.zeros((8, 1), np.int64), np.array(["a"] * 8)]
)
def test_label_arrays_that_are_no_class_ids(
    built: Built, tmp_path: Path, labels: np.ndarray
) -> None:
    data = write_arrays(tmp_path / "eval.npz", rows=8, length=8, labels=labels)
    ended = run_here("profile", built("bert-classes").path, "--data", data, cwd=tmp_path)
    ended.refused(10, "label")
    assert "load" not in ended.err


def test_masking_without_a_tokenizer_is_refused_not_replaced() -> None:
    samples = Samples("data", "", [{"input_ids": np.ones((2, 8), np.int64)}], None)
    with pytest.raises(ConfigError) as caught:
        evaluation_set(samples, "fill-mask", None, 0)
    assert "--tokenizer FOLDER" in caught.value.fix
    other = Samples("data", "", [{"x": np.ones((2, 8))}], None)
    with pytest.raises(DataError, match="input_ids"):
        evaluation_set(other, "text-generation", None, 0)


def test_without_a_mask_every_token_counts(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    ids = np.random.default_rng(0).integers(10, 200, (4, 32))
    bare = Samples("data", "", [{"input_ids": ids}], None)
    full = Samples("data", "", [{"input_ids": ids, "attention_mask": np.ones_like(ids)}], None)
    one, two = (evaluation_set(s, "fill-mask", tmp_path, 0) for s in (bare, full))
    assert (one.targets[0] != evaluation.IGNORED).any()
    np.testing.assert_array_equal(one.targets[0], two.targets[0])


def test_fewer_sequences_than_asked_for_and_every_long_step_are_told(
    bundle: Bundle, tmp_path: Path
) -> None:
    data = write_arrays(tmp_path / "eval.npz", rows=8, length=8)
    log = io.StringIO()
    asked = {"rounds": 3, "round_ms": 1.0, "samples": 9, "engines": ["onnxruntime"]}
    request = ProfileRequest([bundle.path], data, **asked)  # type: ignore[arg-type]
    rows = list(measure(request, Lines(log)))
    said = log.getvalue()
    assert rows[0].accuracy[0].samples == 8
    assert "evaluated on 8 of 9 sequences asked for" in said
    for step in ("verify bundles", "read eval.npz", "simulate", "audit"):
        assert f"{step}" in said


@pytest.mark.parametrize(
    ("out", "code", "words"),
    [
        ("folder", 2, "is a folder"),
        ("/dev/null", 2, "no plain file"),
        ("file/r.jsonl", 11, "not a folder"),
        ("/proc/none/r.jsonl", 11, "cannot be"),
        ("x" * 300, 11, "too long"),
        ("x" * 240 + ".jsonl", 11, "too long"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused_before_measuring(
    bundle: Bundle, tmp_path: Path, out: str, code: int, words: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    data = write_arrays(tmp_path / "eval.npz", rows=8, length=8)
    line = ("profile", bundle.path, "--data", data, "--force", "-o", out)
    ended = run_here(*line, cwd=tmp_path)
    ended.refused(code, words, "-o")
    assert "verify" not in ended.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["eval.npz", "file", "folder"]


def test_a_report_does_not_replace_the_results_or_another_kind_of_file(tmp_path: Path) -> None:
    results = tmp_path / "r.jsonl"
    results.write_text("{}\n")
    (tmp_path / "same.html").symlink_to(results)
    for out in (results, tmp_path / "same.html"):
        line = ("report", results, "-o", out, "--force")
        run_here(*line).refused(2, "is the results file itself")
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("{}\n")
    ended = run_here("report", results, "--tasks", tasks, "-o", tasks, "--force")
    ended.refused(2, "is the tasks file itself")
    notes = tmp_path / "notes.txt"
    notes.write_text("precious")
    run_here("report", results, "-o", notes).refused(2, "no HTML", "--force")
    assert (results.read_text(), notes.read_text()) == ("{}\n", "precious")
    run_here("report", results, "-o", notes, "--force").refused(10, "line 1")
    notes.write_text("\n<!DOCTYPE HTML><title>old</title>")
    run_here("report", results, "-o", notes).refused(10, "line 1")


def test_an_error_in_a_worker_keeps_its_class(tmp_path: Path) -> None:
    how = tmp_path, Configuration("int8", "fp32"), Running(1)
    with WorkerProcess("bert", 60) as worker:
        with pytest.raises(UnknownName, match="bert: no engine is called 'nope'") as caught:
            worker.open("nope", *how)
        with pytest.raises(RunError):
            worker.open("tensorrt-rtx", *how)
    assert "choose one of" in caught.value.fix
    for name in ("NoSuchError", "annotations"):
        error = workers._rebuilt("bert", {"class": name, "problem": "p", "fix": "f"})
        assert type(error) is RunError


def test_too_few_rounds_end_a_demo_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 rounds"):
        demonstration.run_demo(tmp_path, rounds=2, force=False, progress=Silence())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [subprocess.TimeoutExpired("nvidia-smi", 5), OSError("no")])
def test_a_driver_that_does_not_answer(error: Exception) -> None:
    found = mock.patch("shutil.which", return_value="/bin/nvidia-smi")
    with found, mock.patch("subprocess.run", side_effect=error) as run:
        assert hardware.gpu() is None
        assert hardware.hardware()["gpu"] == "nvidia-smi does not answer"
    assert {call.kwargs["timeout"] for call in run.call_args_list if call.args} == {5}
