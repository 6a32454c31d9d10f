"""Tasks of lm-evaluation-harness in every format of the report, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import deploy
from deploy.harness.results import TaskRow
from deploy.profiling.results import Row, write_results
from deploy.reporting.published import ReportDocument
from deploy.reporting.tasks_section import tasks_section
from tests.deploy.running import run_here
from tests.reporting.reading import Page
from tests.reporting.synthetic_resources import task_rows

TASKS = "Tasks by bundle"


@pytest.fixture
def files(rows: list[Row], tmp_path: Path) -> Path:
    """Return a folder with a results file and a file of tasks."""
    write_results(tmp_path / "results.jsonl", rows[:4])
    lines = (row.model_dump_json(by_alias=True, exclude_none=True) for row in task_rows())
    (tmp_path / "tasks.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path


def test_every_configuration_has_its_figure_interval_and_items(page: Page) -> None:
    lines = {line["Configuration"].value: line for line in page.tables[TASKS]}
    values = {name: (c["Value"].value, c["Value"].kind) for name, c in lines.items()}
    assert values == {
        "float-fp32": ("0.7500", "MEASURED"),
        "simulated-fp32": ("0.7250", "SIMULATED"),
        "int8": ("0.6000", "MEASURED"),
    }
    assert lines["int8"]["Value"].detail == "0.4800 – 0.7100"
    assert {line["Items"].value for line in lines.values()} == {"40"}


def test_differences_to_float_are_told_apart_from_noise(page: Page) -> None:
    lines = {line["Configuration"].value: line for line in page.tables[TASKS]}
    cells = {n: line["Against float, same items: difference"] for n, line in lines.items()}
    assert cells["float-fp32"].value == "the reference"
    assert cells["simulated-fp32"].remark == "no evidence of a difference"
    assert (cells["int8"].value, cells["int8"].remark) == ("-0.1500", "worse")
    assert cells["int8"].detail == "-0.2000 – -0.1000 to float-fp32"
    flips = lines["int8"]["Against float, same items: flips"]
    assert flips.value == "8" and flips.detail.startswith("1 turn right, 7 wrong")


@pytest.mark.parametrize(
    ("higher_is_better", "word"), [(True, "worse"), (False, "better"), (None, "differs")]
)
def test_the_word_follows_the_metrics_direction(higher_is_better: bool | None, word: str) -> None:
    row = task_rows()[2].model_copy(update={"higher_is_better": higher_is_better})
    cells = tasks_section([row]).tables[0].rows[0]
    assert cells[7].remark == word


def test_other_items_and_cut_contexts_are_said() -> None:
    first, second = task_rows()[:2]
    said = " ".join(
        note.text
        for note in tasks_section([first, second.model_copy(update={"items_sha256": "c"})]).notes
    )
    assert "endings: not all lines are of the same items" in said
    assert "endings: 3 contexts of tiny-gpt-clipped were cut on the left to 64 tokens" in said


@pytest.mark.parametrize("form", ["html", "md", "json"])
def test_the_command_takes_a_file_of_tasks(files: Path, form: str) -> None:
    out = files / f"r.{form}"
    line = ("report", files / "results.jsonl", "--format", form, "-o", out)
    assert run_here(*line, "--tasks", files / "tasks.jsonl").code == 0
    text = out.read_text("utf-8")
    if form != "json":
        assert TASKS in text and "0.6000" in text
        return
    (entry,) = ReportDocument.model_validate_json(text).tasks
    assert (entry.task, entry.metric, entry.num_fewshot) == ("endings", "acc_norm", 2)
    assert [a.configuration for a in entry.answers] == ["float-fp32", "simulated-fp32", "int8"]
    int8 = entry.answers[2]
    assert (int8.value.value, int8.value.low, int8.samples) == (0.6, 0.48, 40)
    assert int8.change == task_rows()[2].change


def test_so_does_the_function(files: Path) -> None:
    out = deploy.report(
        files / "results.jsonl", files / "r.md", format="md", tasks=files / "tasks.jsonl"
    )
    assert TASKS in out.read_text("utf-8")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no task results at"),
        ("", "holds no rows"),
        ('{"schema": "trueint8/results/2"}\n', "line 1 is not a trueint8/tasks/1 row"),
        ("{" * 9, "line 1 is not a trueint8/tasks/1 row"),
    ],
)
def test_what_is_no_file_of_tasks_is_refused(files: Path, content: str | None, words: str) -> None:
    other = files / "other.jsonl"
    if content is not None:
        other.write_text(content)
    line = ("report", files / "results.jsonl", "--tasks", other, "-o", files / "r.html")
    run_here(*line).refused(10, words, "deploy lm-eval")
    assert not (files / "r.html").exists()


def test_rows_read_back_are_those_written(files: Path) -> None:
    lines = (files / "tasks.jsonl").read_text().splitlines()
    assert [TaskRow.model_validate_json(line) for line in lines] == task_rows()
