"""Sections as data: the front, the sum of the ledger, the audit, ranges, outliers, commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

import pytest

from deploy.profiling.results import Row
from deploy.profiling.summary import summarize
from deploy.reporting.pareto import tradeoffs
from deploy.reporting.published import report_document
from deploy.reporting.sections import outliers, ranges
from tests.reporting.golden import GOLDEN, golden_text
from tests.reporting.reading import Page, page_from_html
from tests.reporting.synthetic import (
    accuracy,
    audit,
    ledger,
    synthetic_group,
    synthetic_latency,
    synthetic_row,
    tensors,
)
from trueint8.kinds import Kind

Write = Callable[[Sequence[Row]], str]
AUDIT, RANGES, OUTLIERS = (
    "What each engine executes",
    "Ranges by activation",
    "Outliers by activation",
)


def charts(page: Page, start: str) -> list[dict[str, object]]:
    found = [json.loads(spec) for spec in page.specs]
    return [spec for spec in found if spec["description"].startswith(start)]


def test_the_report_is_the_golden_one(page: Page) -> None:
    """After a change on purpose: ``python -m tests.reporting.golden``."""
    assert golden_text(page).splitlines() == GOLDEN.read_text("utf-8").splitlines()


def figures_of(latencies_ms: Sequence[float], perplexities: Sequence[float]) -> list[Row]:
    return [
        synthetic_row(
            bundle=f"b{index}",
            bundle_sha256=f"{index}",
            latency=synthetic_latency(time, 7),
            accuracy=[accuracy("perplexity", value)],
        )
        for index, (time, value) in enumerate(zip(latencies_ms, perplexities, strict=True))
    ]


@pytest.mark.parametrize(
    ("perplexities", "front"),
    [
        ((20.0, 21.0, 22.0), {0}),
        ((22.0, 21.0, 20.0), {0, 1, 2}),
        ((21.0, 22.0, 20.0), {0, 2}),
        ((20.0001, 20.0, 20.0), {0}),  # the digits shown are the same
    ],
)
def test_the_front_is_what_nothing_beats(perplexities: tuple[float, ...], front: set[int]) -> None:
    rows = figures_of((1.0, 2.0, 3.0), perplexities)
    (found,) = tradeoffs(summarize(rows))
    assert {int(c.figures.row.bundle[1:]) for c in found.front} == front


def test_only_what_was_measured_on_the_same_data_is_set_side_by_side() -> None:
    rows = figures_of((1.0, 2.0), (20.0, 21.0))
    other = figures_of((1.0, 2.0), (20.0, 21.0))
    elsewhere = [r.model_copy(update={"data": "other", "bundle_sha256": r.bundle}) for r in other]
    assert [len(t.candidates) for t in tradeoffs(summarize([*rows, *elsewhere]))] == [2, 2]
    simulated = [r.model_copy(update={"kind": Kind.SIMULATED, "graph": "qdq"}) for r in rows]
    assert tradeoffs(summarize(simulated)) == []


def test_the_bar_of_accuracy_is_the_paired_interval() -> None:
    rows = synthetic_group(
        1, {"fp32": 4.0, "int8": 2.0},
        {"fp32": [accuracy("accuracy", 0.91)], "int8": [accuracy("accuracy", 0.90)]},
    )  # fmt: skip
    comparisons = summarize(rows)
    (found,) = tradeoffs(comparisons)
    int8 = next(c for c in found.candidates if c.drop is not None)
    drop = comparisons[0].drop
    assert drop is not None and int8.interval is not None
    assert int8.interval == pytest.approx((0.91 - drop.high / 100, 0.91 - drop.low / 100))
    assert int8.interval[0] < 0.90 < int8.interval[1]


def test_the_waterfall_ends_where_the_latency_is(page: Page, rows: list[Row]) -> None:
    shown = charts(page, "Waterfall")
    having = [row.ledger for row in rows if row.ledger is not None]
    assert len(shown) == len(having) == 3
    for spec, found in zip(shown, having, strict=True):
        (steps,) = spec["datasets"].values()  # type: ignore[attr-defined]
        assert [s["label"] for s in steps] == [
            "ceiling", "float matmuls", "pointwise", "unexplained", "latency",
        ]  # fmt: skip
        for before, after in zip(steps[:-2], steps[1:-1], strict=True):
            assert after["start"] == pytest.approx(before["end"])
        assert steps[0]["kind"] == "PREDICTED"
        assert steps[-2]["end"] == pytest.approx(steps[-1]["end"])
        assert steps[-1]["end"] == found.latency.value


def test_the_ledgers_table_adds_up(page: Page) -> None:
    lines = [row for row in page.tables["Parts of the latency"] if row["Model"].value == "tiny-gpt"]
    parts = [row for row in lines if row["Engine"].value == "openvino"]
    *terms, whole = (float(row["ms"].value) for row in parts)
    assert sum(terms) == pytest.approx(whole, abs=0.005 * len(terms))
    assert parts[-1]["Part"].value == "latency"
    assert parts[0]["ms"].kind == "PREDICTED"


def test_speed_ups_stand_side_by_side_with_their_kinds(page: Page) -> None:
    first = page.tables["Speed-ups by source"][0]
    shown = {name: (cell.value, cell.kind) for name, cell in first.items() if cell.kind}
    assert shown == {
        "Speed-up to FP32 by: bits per value": ("4.00×", "PREDICTED"),
        "Speed-up to FP32 by: engine": ("2.35×", "MEASURED"),
        "To the fastest float: measured": ("1.85×", "MEASURED"),
    }
    assert first["To the fastest float: measured"].detail == "1.80 – 1.90 to float-bf16"


def test_matmuls_that_are_alike_share_a_line(page: Page) -> None:
    lines = [
        row
        for row in page.tables[AUDIT]
        if (row["Model"].value, row["Engine"].value) == ("tiny-gpt", "openvino")
    ]
    assert sum(int(row["Count"].value) for row in lines) == len(audit()) == 25
    assert sum(float(row["MACs"].value.rstrip(" %")) for row in lines) == pytest.approx(100, abs=1)
    named = {row["Matmuls"].value: row for row in lines}
    assert named["decoder.layer.*.query"]["Count"].value == "4"
    assert named["decoder.layer.*.key"]["Count"].value == "3"
    refused = named["decoder.layer.1.key"]
    assert refused["Executed in"].value == "fp32"
    assert refused["Why not INT8"].value == "no kernel takes it"
    assert named["lm_head"]["In the graph"].value == "float"
    built = [row for row in page.tables[AUDIT] if row["Engine"].value == "tensorrt-rtx"]
    assert {row["Executed in"].kind for row in built} == {"BUILT"}


def test_ranges_and_outliers_begin_with_the_worst(page: Page) -> None:
    first = page.tables[RANGES][0]
    assert first["Read by"].value == "decoder.layer.0.matmul_3"
    assert (first["SQNR, dB"].value, first["SQNR, dB"].kind) == ("17.25", "SIMULATED")
    assert (first["Clipped"].value, first["Clipped"].kind) == ("1.2300 %", "SIMULATED")
    assert first["Threshold ÷ largest"].value == "0.250"
    worst = page.tables[OUTLIERS][0]
    assert worst["Read by"].value == "decoder.layer.0.matmul_5"
    assert worst["Kurtosis"].value == "812.50"
    assert len(page.tables[RANGES]) == 2 * 24, "once per bundle, not per engine"


def test_commands_can_be_pasted(html: str, page: Page) -> None:
    listed = re.search(r"<pre .*?><code>(.*?)</code></pre>", html, re.DOTALL)
    assert listed is not None
    assert listed[1].replace("&#39;", "'").splitlines() == [
        "deploy build tiny --int8 --calib-data 'a b.txt' -o tiny-gpt-clipped",
        "deploy build tiny --int8 --calib-data 'a b.txt' -o bert-mini-vanilla",
        "deploy profile tiny-gpt-clipped --data eval.txt -o results.jsonl",
        "deploy report results.jsonl -o report.html",
    ]


def test_what_results_do_not_hold_is_said_with_the_way_to_it(
    rows: list[Row], written: Write
) -> None:
    gone = dict.fromkeys(("audit", "tensors", "ledger")) | {"built_by": "", "measured_by": ""}
    html = written([row.model_copy(update=gone) for row in rows])
    page = page_from_html(html)
    assert not {AUDIT, RANGES, OUTLIERS, "Parts of the latency"} & page.tables.keys()
    said = " ".join(page.texts)
    for words in ("hold no ledger", "hold no audit", "hold no statistics", "do not say how"):
        assert words in said


def test_many_bundles_show_their_worst_and_say_so() -> None:
    rows = [
        synthetic_row(bundle=f"b{n}", bundle_sha256=f"{n}", tensors=tensors(97, seed=n))
        for n in range(20)
    ]
    for module in (ranges, outliers):
        found = module.section(rows, [])
        assert len(found.tables[0].rows) == 20 * 15
        assert "The table shows 15 of each bundle; all are in report.json" in found.lead
    document = report_document(rows, "t")
    assert [len(bundle.tensors) for bundle in document.bundles] == [97] * 20


def test_the_json_report_holds_what_the_sections_show(rows: list[Row]) -> None:
    first = report_document(rows, "t").comparisons[0]
    standing = {c.configuration: c.on_front for c in first.configurations}
    assert standing == {"FP32": True, "BF16": True, "Q/DQ in FP32": None, "INT8": True}
    int8 = first.configurations[-1]
    assert int8.change == first.drop
    assert int8.audit == audit()
    assert int8.ledger == ledger(1.71)
