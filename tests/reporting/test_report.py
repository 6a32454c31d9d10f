"""The HTML report of SYNTHETIC rows: figures, kinds, escaping, and that it is one file."""

from __future__ import annotations

import importlib.util
import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import altair as alt
import numpy as np
import pytest

from deploy.profiling.results import Latency, Row
from deploy.profiling.statistics import runs_needed
from deploy.reporting.page import SECTIONS, write_report
from tests.reporting.reading import Page, Seen, page_from_html
from tests.reporting.synthetic import accuracy, synthetic_latency, synthetic_row, synthetic_rows
from trueint8.errors import DataError, MissingDependency
from trueint8.kinds import Kind

OVERVIEW = "Float, simulated and measured"
LATENCY = "Latency of every configuration"
METRICS = "Every metric of every configuration"
FIGURES = re.compile(r"Accuracy: (?!metric)|Latency|Speed-up|Coverage|MAC|Throughput|^Value$")

Write = Callable[[Sequence[Row]], str]


def line(page: Page, model: str, engine: str) -> dict[str, Seen]:
    """Return the overview's line of one model on one engine."""
    (found,) = (
        row
        for row in page.tables[OVERVIEW]
        if (row["Model"].value, row["Engine"].value) == (model, engine)
    )
    return found


def raw(rows: Sequence[Row], model: str, engine: str, precision: str, graph: str) -> Latency:
    """Return the raw samples of one configuration."""
    (found,) = (
        row.latency
        for row in rows
        if (row.model, row.engine, row.precision, row.graph) == (model, engine, precision, graph)
    )
    assert found is not None
    return found


def pooled_ms(latency: Latency) -> list[float]:
    """Return all samples in milliseconds, computed by hand."""
    return [sample / 1_000_000 for samples in latency.rounds_ns for sample in samples]


def hand_interval(baseline: Latency, candidate: Latency) -> tuple[float, float]:
    """Return the paired bootstrap interval of a speed-up, written out anew."""
    draw = np.random.default_rng(20260101)
    picks = draw.integers(0, len(baseline.rounds_ns), size=(2000, len(baseline.rounds_ns)))
    ratios = []
    for pick in picks:
        sides = [
            statistics.median(s for i in pick for s in side.rounds_ns[i])
            for side in (baseline, candidate)
        ]
        ratios.append(sides[0] / sides[1])
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def test_overview_medians_are_those_of_the_raw_samples(page: Page, rows: list[Row]) -> None:
    shown = line(page, "tiny-gpt", "openvino")
    int8 = statistics.median(pooled_ms(raw(rows, "tiny-gpt", "openvino", "int8", "qdq")))
    bf16 = statistics.median(pooled_ms(raw(rows, "tiny-gpt", "openvino", "bf16", "float")))
    assert shown["Latency, p50: INT8"].value == f"{int8:.2f} ms"
    assert shown["Latency, p50: fastest float"].value == f"BF16 {bf16:.2f} ms"


def test_measured_speed_up_is_fastest_float_over_int8(page: Page, rows: list[Row]) -> None:
    bf16 = raw(rows, "tiny-gpt", "openvino", "bf16", "float")
    int8 = raw(rows, "tiny-gpt", "openvino", "int8", "qdq")
    ratio = statistics.median(pooled_ms(bf16)) / statistics.median(pooled_ms(int8))
    low, high = hand_interval(bf16, int8)
    cell = line(page, "tiny-gpt", "openvino")["Speed-up: measured"]
    assert cell.value == f"{ratio:.2f}×"
    assert cell.detail == f"{low:.2f} – {high:.2f}"
    assert (cell.kind, cell.remark) == ("MEASURED", "faster")


def test_simulated_speed_up_is_fp32_over_qdq_in_fp32(page: Page, rows: list[Row]) -> None:
    fp32 = raw(rows, "tiny-gpt", "openvino", "fp32", "float")
    qdq = raw(rows, "tiny-gpt", "openvino", "fp32", "qdq")
    ratio = statistics.median(pooled_ms(fp32)) / statistics.median(pooled_ms(qdq))
    cell = line(page, "tiny-gpt", "openvino")["Speed-up: simulated"]
    assert cell.value == f"{ratio:.2f}×"
    assert (cell.kind, cell.remark) == ("SIMULATED", "slower")


def test_latency_table_shows_percentiles_and_what_they_rest_on(page: Page, rows: list[Row]) -> None:
    for row, shown in zip(
        [r for r in rows if r.engine == "openvino" and r.model == "tiny-gpt"],
        page.tables[LATENCY],
        strict=False,
    ):
        assert row.latency is not None
        samples = pooled_ms(row.latency)
        for percent in (50, 90, 95):
            expected = f"{np.percentile(samples, percent):.2f}"
            assert shown[f"Latency, ms: p{percent}"].value == expected
        assert shown["Latency, ms: p99"].value == "takes 368 samples"
        rate = 1000 * row.latency.batch / statistics.median(samples)
        assert shown["Throughput: sequences/s"].value == f"{rate:.1f}"
        assert shown["Samples"].value == str(len(samples)) == "240"
        assert shown["Input: batch × tokens"].value == "1 × 128"
        assert shown["Threads"].value == "4"


def test_every_row_of_the_results_is_in_the_tables(page: Page, rows: list[Row]) -> None:
    assert len(page.tables[LATENCY]) == len(rows)
    metrics = sum(max(len(row.accuracy), 1) for row in rows)
    assert len(page.tables[METRICS]) == metrics


def test_accuracy_stands_side_by_side_with_its_direction(page: Page) -> None:
    shown = line(page, "tiny-gpt", "openvino")
    cells = [shown[f"Accuracy: {name}"] for name in ("float", "Q/DQ in FP32", "INT8")]
    assert [cell.value for cell in cells] == ["28.412", "28.902", "28.934"]
    assert [cell.kind for cell in cells] == ["MEASURED", "SIMULATED", "MEASURED"]
    assert shown["Accuracy: metric"].detail == "lower is better"
    other = line(page, "bert-mini", "openvino")
    assert other["Accuracy: metric"].detail == "higher is better"
    assert other["Accuracy: INT8"].value == "0.9081"


@pytest.mark.parametrize(
    ("model", "engine", "remark"),
    [
        ("tiny-gpt", "openvino", "faster"),
        ("tiny-gpt", "onnxruntime", "no evidence of a difference"),
        ("bert-mini", "openvino", "slower"),
    ],
)
def test_verdict_follows_the_interval(page: Page, model: str, engine: str, remark: str) -> None:
    cell = line(page, model, engine)["Speed-up: measured"]
    low, high = map(float, cell.detail.split(" – "))
    assert cell.remark == remark
    assert (low > 1, high < 1) == (remark == "faster", remark == "slower")


def test_an_engine_that_was_only_built_shows_no_figure_but_coverage(page: Page) -> None:
    shown = dict(line(page, "tiny-gpt", "tensorrt-rtx"))
    coverage = shown.pop("INT8 MAC coverage")
    assert (coverage.value, coverage.kind) == ("78.1 %", "BUILT")
    assert coverage.detail == "24 of 25 weight matmuls"
    for name in [name for name in shown if FIGURES.search(name)]:
        assert shown[name].value == "not run here", name
        assert shown[name].kind == ""


def test_every_figure_carries_its_kind(page: Page) -> None:
    figures = 0
    for caption in (OVERVIEW, LATENCY, METRICS):
        for row in page.tables[caption]:
            for name, cell in row.items():
                if not FIGURES.search(name) or cell.value.startswith("takes "):
                    continue
                if any(letter.isdigit() for letter in cell.value):
                    assert cell.kind in list(Kind), (caption, name, cell)
                    figures += 1
    assert figures > 50


def test_all_four_kinds_and_both_speed_ups_are_defined(page: Page) -> None:
    terms = page.tables["What the words mean"]
    assert [row["Term"].kind for row in terms[:4]] == [kind.value for kind in Kind]
    named = {row["Term"].value for row in terms}
    assert {"Simulated speed-up", "Measured speed-up", "INT8 MAC coverage"} <= named


def test_environment_and_hashes_are_shown(page: Page) -> None:
    (caption,) = (name for name in page.tables if name.startswith("Session "))
    shown = {row["Setting"].value: row["Value"].value for row in page.tables[caption]}
    assert shown["hardware › cpu"] == "Synthetic CPU 9000 (invented)"
    assert shown["hardware › isa"] == "avx2, avx512_vnni"
    assert shown["versions › openvino"] == "2026.0"
    assert shown["threads per inference"] == "4"
    assert shown["processors taken by other processes"] == "1.0 % on average, 1 % at most"
    hashes = {row["SHA-256 of manifest"].value for row in page.tables["Models and bundles"]}
    assert hashes == {"9f" * 32, "0a" * 32}


def test_the_page_refers_to_nothing_outside_itself(page: Page, html: str) -> None:
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), f"inline handler on <{tag}>"
        if name in {"src", "href", "srcset", "action", "data", "poster"}:
            assert value.startswith(("#", "data:")), f"<{tag} {name}={value}>"
        assert "http" not in value.replace("http-equiv", ""), f"<{tag} {name}={value}>"
    assert {tag for tag, *_ in page.attributes}.isdisjoint({"link", "iframe", "object", "embed"})
    style = html[html.index("<style>") : html.index("</style>")]
    assert not re.search(r"@import|url\(|@font-face|https?:", style)


def test_charts_hold_the_same_figures_as_the_tables(page: Page, rows: list[Row]) -> None:
    specs = [json.loads(spec) for spec in page.specs]
    bars = next(spec for spec in specs if spec["description"].startswith("Bar chart"))
    (marks,) = bars["datasets"].values()
    fp32 = statistics.median(pooled_ms(raw(rows, "tiny-gpt", "openvino", "fp32", "float")))
    assert marks[0]["value"] == pytest.approx(fp32)
    assert marks[0]["low"] <= marks[0]["value"] <= marks[0]["high"]
    assert [mark["label"] for mark in marks] == [
        "FP32\nMEASURED",
        "BF16\nMEASURED",
        "Q/DQ in FP32\nSIMULATED",
        "INT8\nMEASURED",
    ]
    for spec in specs:
        assert spec["width"] == "container"
        alt.Chart.from_dict(spec)  # raises where Vega-Lite's schema does not allow it
        assert re.search("MEASURED|SIMULATED|kurtosis", spec["description"])


def test_vega_is_inlined_once(page: Page) -> None:
    assert sum("window.vegaEmbed=" in script for script in page.scripts) == 1


HOSTILE = "</script><script>alert(1)</script><!--<b>&\"'\u2028"


def test_no_name_can_become_markup(written: Write) -> None:
    hostile = [
        row.model_copy(
            update={
                "model": HOSTILE,
                "bundle": HOSTILE,
                "attention": HOSTILE,
                "calibration": HOSTILE,
                "session": HOSTILE,
                "data": HOSTILE,
                "note": HOSTILE,
                "environment": {HOSTILE: [HOSTILE]},
            }
        )
        for row in synthetic_rows()[:4]
    ]
    html = written(hostile)
    page = page_from_html(html)
    assert "alert(1)</script>" not in html
    assert "<!--" not in html
    assert len(page.scripts) == 3
    assert page.tables[OVERVIEW][0]["Model"].value == HOSTILE.strip()
    assert all(HOSTILE in json.loads(spec)["description"] for spec in page.specs)


def test_the_same_rows_give_the_same_page(rows: list[Row], written: Write) -> None:
    assert written(rows) == written(rows)


def test_a_figure_that_is_not_finite_is_said_to_be(written: Write) -> None:
    row = synthetic_row(latency=synthetic_latency(2.0, 1), accuracy=[accuracy("loss", np.inf)])
    page = page_from_html(written([row]))
    assert page.tables[METRICS][0]["Value"].value == "not finite"


def test_one_round_has_no_interval_and_no_verdict(written: Write) -> None:
    rows = [
        synthetic_row(latency=synthetic_latency(2.0, 1, rounds=1)),
        synthetic_row(graph="qdq", precision="int8", latency=synthetic_latency(1.0, 2, rounds=1)),
    ]
    shown = page_from_html(written(rows)).tables[OVERVIEW][0]["Speed-up: measured"]
    assert (shown.detail, shown.remark) == ("one round, no interval", "")


def test_a_percentile_needs_samples_beyond_it(written: Write) -> None:
    """0.99³⁶⁷ > 2.5 %: of 367 samples the largest may lie below p99 too often."""
    latency = synthetic_latency(2.0, 1, rounds=25)
    samples = pooled_ms(latency)
    assert len(samples) >= 368
    (shown,) = page_from_html(written([synthetic_row(latency=latency)])).tables[LATENCY]
    assert shown["Latency, ms: p99"].value == f"{np.percentile(samples, 99):.2f}"
    few = latency.model_copy(update={"rounds_ns": [latency.rounds_ns[0][:35]]})
    (shown,) = page_from_html(written([synthetic_row(latency=few)])).tables[LATENCY]
    assert shown["Latency, ms: p90"].value == "takes 36 samples"
    assert [runs_needed(q) for q in (50, 90, 95, 99)] == [6, 36, 72, 368]


def test_two_int8_rows_of_one_engine_are_both_in_the_report(written: Write) -> None:
    rows = [
        synthetic_row(
            graph="qdq",
            precision="int8",
            rest=rest,
            latency=synthetic_latency(1.0, 3),
            accuracy=[accuracy("loss", 3.0)],
        )
        for rest in ("fp32", "bf16")
    ]
    page = page_from_html(written(rows))
    assert [row["Configuration"].value for row in page.tables[LATENCY]] == ["INT8", "INT8 + BF16"]
    assert any("1 of 2 rows stand only under Latency" in text for text in page.texts)


def test_rounds_that_do_not_pair_are_an_error_with_a_fix(tmp_path: Path) -> None:
    rows = [
        synthetic_row(latency=synthetic_latency(2.0, 1, rounds=4)),
        synthetic_row(graph="qdq", precision="int8", latency=synthetic_latency(1.0, 2, rounds=3)),
    ]
    with pytest.raises(DataError, match="4 rounds cannot be paired with 3") as caught:
        write_report(rows, tmp_path / "r.html")
    assert "deploy profile" in caught.value.fix
    assert not (tmp_path / "r.html").exists()


def test_no_rows_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows to report"):
        write_report([], tmp_path / "r.html")


def test_a_missing_extra_is_named_with_what_to_install(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name in ("altair", "vl_convert") else found(name),
    )
    with pytest.raises(MissingDependency, match="altair and vl-convert-python") as caught:
        write_report(rows, tmp_path / "r.html")
    assert caught.value.fix == "pip install 'trueint8[report]'"


def test_sections_stand_in_the_order_they_name(page: Page) -> None:
    shown = [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")]
    assert shown == [
        "verdict", "overview", "pareto", "latency", "throughput", "resources", "rebuilds",
        "accuracy", "tasks", "ledger", "attention-cost", "audit", "ranges", "outliers",
        "environment",
    ]  # fmt: skip
    beside = {"tasks", "generation"}
    assert set(shown) - beside == set(SECTIONS.names()) - beside


def test_lines_of_one_model_and_engine_are_told_apart(written: Write) -> None:
    base = synthetic_row(latency=synthetic_latency(2.0, 1))
    rows = [base.model_copy(update={"bundle": b, "bundle_sha256": b}) for b in ("one", "two")]
    details = [r["Model"].detail for r in page_from_html(written(rows)).tables[OVERVIEW]]
    assert [d.split(" · ")[0] for d in details] == ["one", "two"]
    rows = [base.model_copy(update={"session": s}) for s in ("first", "second")]
    details = [r["Model"].detail for r in page_from_html(written(rows)).tables[OVERVIEW]]
    assert [d.split(" · ")[0].rpartition(" ")[2] for d in details] == ["first", "second"]
