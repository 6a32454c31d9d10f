"""Markdown, JSON with its published schema, and the data inside the page."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
from pathlib import Path

import pytest

from deploy.profiling.results import Row, read_results, write_results
from deploy.reporting import page as page_module
from deploy.reporting.page import STARTS, write_report
from deploy.reporting.published import ReportDocument, json_report, report_document
from deploy.reporting.schemas import PUBLISHED, schema_file, schema_text
from tests.deploy.running import run_here
from tests.reporting.reading import Page, page_from_html
from tests.reporting.synthetic import synthetic_latency
from tests.reporting.synthetic_resources import task_rows

SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"


def saved(page: Page) -> dict[str, bytes]:
    """Return what each download link would save."""
    names = [value for tag, name, value in page.attributes if (tag, name) == ("a", "download")]
    links = [v for tag, name, v in page.attributes if name == "href" and v.startswith("data:")]
    assert len(names) == len(links)
    return {
        name: base64.b64decode(link.partition(";base64,")[2])
        for name, link in zip(names, links, strict=True)
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_schema_is_that_of_the_code(name: str) -> None:
    """After a change on purpose: ``make schema``."""
    assert (SCHEMAS / schema_file(name)).read_text("utf-8") == schema_text(name)


def test_the_json_report_is_what_the_first_screen_shows(rows: list[Row], tmp_path: Path) -> None:
    write_report(rows, tmp_path / "r.json", format="json")
    text = (tmp_path / "r.json").read_text("utf-8")
    assert text.startswith(STARTS["json"])
    found = ReportDocument.model_validate_json(text)
    first = found.comparisons[0]
    assert (first.model, first.engine, first.kind) == ("tiny-gpt", "openvino", "MEASURED")
    assert first.fastest_float == "BF16"
    assert [(r.baseline, r.candidate, r.kind, r.verdict) for r in first.speed_ups] == [
        ("FP32", "INT8", "MEASURED", "faster"),
        ("BF16", "INT8", "MEASURED", "faster"),
        ("FP32", "Q/DQ in FP32", "SIMULATED", "slower"),
    ]
    assert f"{first.speed_ups[1].ratio.value:.2f}× faster" in first.verdict
    assert first.drop is not None and first.drop_unit == "%"
    assert first.drop.value == pytest.approx(100 * (28.9344 / 28.4123 - 1))
    assert sum(len(c.configurations) for c in found.comparisons) == len(rows)
    assert found.comparisons[2].configurations[0].p50_ms is None


def test_the_page_carries_its_data(page: Page, rows: list[Row], tmp_path: Path) -> None:
    files = saved(page)
    assert list(files) == ["figures.csv", "report.json", "results.jsonl.gz"]
    (tmp_path / "r.jsonl").write_bytes(gzip.decompress(files["results.jsonl.gz"]))
    assert read_results(tmp_path / "r.jsonl") == rows
    document = report_document(rows, "INT8 report: tiny-gpt, bert-mini", tasks=task_rows())
    assert files["report.json"].decode() == json_report(document, indent=None)
    lines = list(csv.DictReader(io.StringIO(files["figures.csv"].decode())))
    assert len(lines) == len(rows)
    first = document.comparisons[0].configurations[0].p50_ms
    assert first is not None and float(lines[0]["p50_ms"]) == first.value
    assert lines[0]["p50_ms_low"] and not lines[7]["p50_ms"], "the seventh was only built"


def test_raw_samples_are_left_out_where_they_would_not_fit(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "_MOST_BYTES", 500_000)
    write_report(rows[:2], tmp_path / "r.html")
    page = page_from_html((tmp_path / "r.html").read_text("utf-8"))
    files = saved(page)
    assert list(files) == ["figures.csv", "report.json.gz"]
    document = report_document(rows[:2], "INT8 report: tiny-gpt")
    assert gzip.decompress(files["report.json.gz"]).decode() == json_report(document, indent=None)


def _as_version_1(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        plain = json.loads(row.model_dump_json(by_alias=True, exclude_none=True))
        for name in (
            "mode",
            "scores",
            "parity",
            "overlap",
            "floats",
            "pss_mib",
            "attentions",
            "fused_attentions",
            "throughput",
            "rebuilds",
            "device_memory",
        ):
            plain.pop(name, None)
        plain.get("latency", {}).pop("blocks", None)
        lines.append(json.dumps({**plain, "schema": "trueint8/results/1"}))
    return "\n".join(lines)


def test_results_of_version_1_are_still_read(rows: list[Row], tmp_path: Path) -> None:
    old = tmp_path / "old.jsonl"
    old.write_text(_as_version_1(rows))
    found = read_results(old)
    assert [row.latency and row.latency.rounds_ns for row in found] == [
        row.latency and row.latency.rounds_ns for row in rows
    ]
    write_report(found, tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text("utf-8")
    assert "These results say too little to check: baseline-differs, data-overlap" in html
    assert "no interval recorded" in html


@pytest.mark.parametrize("form", ["html", "md", "json"])
def test_strict_reports_are_written_and_refused(rows: list[Row], tmp_path: Path, form: str) -> None:
    few = [row.model_copy(update={"latency": synthetic_latency(2.0, 1, rounds=4)}) for row in rows]
    for name, found in (("good", rows), ("bad", few)):
        write_results(tmp_path / f"{name}.jsonl", found)
    line = ("report", "--format", form, "--strict", "-o", tmp_path / f"r.{form}")
    assert run_here(*line, tmp_path / "good.jsonl").code == 0
    ended = run_here(*line, tmp_path / "bad.jsonl")
    ended.refused(12, "too-few-samples", "4 rounds", "--rounds 10")
    text = (tmp_path / f"r.{form}").read_text("utf-8")
    assert "too-few-samples" in text and "4 rounds" in text
    assert run_here(*line[:3], *line[4:], tmp_path / "bad.jsonl").code == 0


@pytest.mark.parametrize("form", ["md", "json"])
def test_another_file_is_not_written_over(rows: list[Row], tmp_path: Path, form: str) -> None:
    write_results(tmp_path / "results.jsonl", rows)
    other = tmp_path / f"report.{form}"
    other.write_text("# precious")
    line = ("report", "--format", form)
    run_here(*line, cwd=tmp_path).refused(2, f"is no {form} report", "--force")
    assert other.read_text() == "# precious"
    assert run_here(*line, "--force", cwd=tmp_path).code == 0
    assert run_here(*line, cwd=tmp_path).code == 0, "its own report it replaces"
