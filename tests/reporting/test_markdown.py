"""The report for a pull request: the golden text, its kinds, its length, and no foreign markup."""

from __future__ import annotations

import re
from typing import Any

from deploy.profiling.results import Row
from deploy.reporting.markdown import escaped, markdown_report
from deploy.reporting.page import STARTS
from tests.reporting.golden import GOLDEN_MARKDOWN, golden_markdown

CLOSED = "\n</details>\n"


def test_it_is_the_golden_one() -> None:
    """After a change on purpose: ``python -m tests.reporting.golden``."""
    assert golden_markdown() == GOLDEN_MARKDOWN.read_text("utf-8")


def test_the_first_screen_is_one_table_with_kinds(rows: list[Row]) -> None:
    lines = markdown_report(rows, "INT8 | a report").partition("<details>")[0].splitlines()
    assert lines[0] == STARTS["md"]
    assert lines[1] == "## INT8 \\| a report"
    table = [line for line in lines if line.startswith("| ")]
    assert len(table) == 2 + 4
    columns = {line.replace("\\|", "").count("|") for line in table}
    assert columns == {12}
    verdicts = [line for line in lines if line.startswith("- **")]
    assert len([v for v in verdicts if "`MEASURED`" in v]) == 3
    assert len([v for v in verdicts if "`BUILT`" in v]) == 1
    assert "`SIMULATED`" in table[2]


def test_what_is_folded_has_a_title_and_an_end(rows: list[Row]) -> None:
    text = markdown_report(rows, "t")
    titles = re.findall(r"\n<details><summary>(.+?)</summary>\n\n", text)
    assert titles == [
        "Accuracy", "Audit", "Throughput", "Memory, size, loading and energy",
        "Spread between builds", "Where the time goes", "Environment",
        "Commands that give this report",
    ]  # fmt: skip
    assert text.count("<details>") == text.count(CLOSED) == len(titles)


def test_every_table_has_as_many_cells_as_headings(rows: list[Row]) -> None:
    width = 0
    for before, line in zip(
        ["", *(lines := markdown_report(rows, "t").splitlines())], lines, strict=False
    ):
        if line.startswith("| "):
            cells = line.replace("\\|", "").count("|")
            assert cells == width or not before.startswith("| ")
            width = cells


def test_results_without_more_fold_less(rows: list[Row]) -> None:
    bare: dict[str, Any] = {"throughput": [], "rebuilds": None, "ledger": None, "audit": None}
    text = markdown_report([row.model_copy(update=bare) for row in rows], "t")
    for title in ("Throughput", "Spread", "Where the time goes", "Audit", "Tasks"):
        assert f"<summary>{title}" not in text
    assert "<summary>Accuracy" in text and "<summary>Environment" in text


def test_it_fits_a_comment_and_says_what_did_not(rows: list[Row]) -> None:
    many = [
        row.model_copy(update={"bundle": f"bundle-{n}", "bundle_sha256": f"{n:064d}"})
        for n in range(9)
        for row in rows
    ]
    text = markdown_report(many, "t")
    assert 40_000 < len(text) < 65_536
    (told,) = re.findall(r"\nToo long for a comment, and in the HTML: (.+)\.\n", text)
    assert "Accuracy" in told and "<summary>Accuracy" not in text
    assert "<summary>Commands" in text, "what is short is there"
    assert text.count("<details>") == text.count(CLOSED)


def test_commands_end_no_fence_early(rows: list[Row]) -> None:
    row = rows[0].model_copy(update={"measured_by": "deploy profile '````' --data a"})
    text = markdown_report([row], "t")
    assert "\n`````sh\n" in text and text.count("`````") == 2


def test_names_are_no_markdown(rows: list[Row]) -> None:
    hostile = "a|b\n# <img src=x> [x](y) @all `c`"
    text = markdown_report([rows[0].model_copy(update={"model": hostile})], "t")
    assert escaped(hostile) in text
    assert "\n# " not in text and "<img" not in text.replace("\\<img", "")
