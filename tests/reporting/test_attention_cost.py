"""The cost sheet of attention variants, from SYNTHETIC rows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from deploy.profiling.results import Row
from deploy.profiling.summary import summarize
from deploy.reporting.document import Cell
from deploy.reporting.published import report_document
from deploy.reporting.sections.attention_cost import section
from tests.reporting.reading import page_from_html
from tests.reporting.synthetic import (
    ENVIRONMENT,
    coverage,
    synthetic_group,
    synthetic_latency,
    synthetic_row,
)
from trueint8.kinds import Kind

SHEET = "Attention variants by engine"
FUSED, INT8, RATIO = "Fused attention", "INT8 MAC coverage", "p50 ÷ vanilla float"
TIMES = {
    "vanilla": {"fp32": 4.0, "bf16": 3.0, "qdq": 5.0, "int8": 1.5},
    "clipped": {"fp32": 4.6, "bf16": 3.9, "qdq": 5.0, "int8": 2.1},
}


def variant(name: str, **changes: Any) -> list[Row]:
    """Return the rows of one variant, whose bundle and model are named after it."""
    named = {"model": f"bert-{name}", "bundle": f"b-{name}", "bundle_sha256": name}
    seed = 100 * len(name) + ord(name[0])
    return synthetic_group(seed, TIMES[name], {}, attention=name, **{**named, **changes})


def both() -> list[Row]:
    """Return a variant, then vanilla, on OpenVINO, and the variant's plan that was only built."""
    plan = synthetic_row(
        model="bert-clipped",
        bundle="b-clipped",
        bundle_sha256="clipped",
        engine="tensorrt-rtx",
        graph="qdq",
        precision="int8",
        kind=Kind.BUILT,
        coverage=coverage(),
        attentions=6,
        fused_attentions=6,
    )
    return [*variant("clipped"), plan, *variant("vanilla")]


def lines(rows: Sequence[Row]) -> list[dict[str, Cell]]:
    """Return the sheet's lines by column."""
    made = section(rows, summarize(rows))
    assert made is not None
    (table,) = made.tables
    titles = [column.title for column in table.columns]
    return [dict(zip(titles, cells, strict=True)) for cells in table.rows]


def line(
    rows: Sequence[Row], attention: str, configuration: str, engine: str = "openvino"
) -> dict[str, Cell]:
    """Return the one line of a configuration of a variant."""
    wanted = (attention, configuration, engine)
    names = ("Attention", "Configuration", "Engine")
    (found,) = (one for one in lines(rows) if tuple(one[n].text for n in names) == wanted)
    return found


def rounds(rows: Sequence[Row], attention: str, precision: str) -> list[list[int]]:
    """Return the raw rounds of a configuration."""
    (found,) = (
        row.latency.rounds_ns
        for row in rows
        if (row.attention, row.precision) == (attention, precision)
        and row.kind is Kind.MEASURED
        and row.latency is not None
    )
    return found


def pooled(samples: Sequence[Sequence[int]]) -> float:
    """Return the median of all samples of all rounds."""
    return statistics.median(one for samples_of_round in samples for one in samples_of_round)


def test_a_variant_is_held_against_the_fastest_float_of_vanilla() -> None:
    rows = both()
    baseline = rounds(rows, "vanilla", "bf16")
    for name in ("fp32", "bf16", "int8"):
        cell = line(rows, "clipped", name.upper())[RATIO]
        expected = pooled(rounds(rows, "clipped", name)) / pooled(baseline)
        assert float(cell.text.removesuffix("×")) == pytest.approx(expected, abs=0.006)
        assert cell.kind == "MEASURED"
        assert cell.detail.endswith("against BF16 of b-vanilla")
    own = line(rows, "vanilla", "BF16")[RATIO]
    assert (own.text, own.detail) == ("1", "the baseline")


def test_rounds_of_two_bundles_are_drawn_apart() -> None:
    """Written out anew: bundles are timed one after the other, so no round pairs with another."""
    rows = both()
    above, below = rounds(rows, "clipped", "int8"), rounds(rows, "vanilla", "bf16")
    draw = np.random.default_rng(1)
    ratios = [
        pooled([above[i] for i in draw.integers(0, len(above), len(above))])
        / pooled([below[i] for i in draw.integers(0, len(below), len(below))])
        for _ in range(2000)
    ]
    (entry,) = (
        one
        for comparison in report_document(rows, "t").comparisons
        for one in comparison.configurations
        if comparison.attention == "clipped" and one.configuration == "INT8" and one.p50_ms
    )
    assert entry.relative_latency is not None
    found = (entry.relative_latency.low, entry.relative_latency.high)
    assert found == pytest.approx(tuple(np.percentile(ratios, [2.5, 97.5])), rel=2e-3)
    shown = line(rows, "clipped", "INT8")[RATIO].detail
    assert shown.startswith(f"{found[0]:.2f} – {found[1]:.2f} against")


def test_vanilla_itself_ran_in_the_same_rounds() -> None:
    """A round twice as slow for all configurations leaves a paired ratio as it is."""
    rows = [row for row in variant("vanilla") if row.kind is Kind.MEASURED]
    latency = synthetic_latency(3.0, 7, rounds=12)
    slow = [[2 * one for one in r] if i % 2 else r for i, r in enumerate(latency.rounds_ns)]
    double = [[2 * one for one in r] for r in slow]
    times = {"bf16": slow, "int8": double, "fp32": double}
    rows = [
        row.model_copy(
            update={"latency": latency.model_copy(update={"rounds_ns": times[row.precision]})}
        )
        for row in rows
    ]
    alone, (*_, comparison) = (
        report_document(found, "t").comparisons for found in (rows, [*variant("clipped"), *rows])
    )
    assert all(one.relative_latency is None for one in alone[0].configurations)
    for one in comparison.configurations:
        expected = 1.0 if one.configuration == "BF16" else 2.0
        assert one.relative_latency is not None
        ends = (one.relative_latency.low, one.relative_latency.high)
        assert ends == pytest.approx((expected, expected))


def test_a_plan_that_was_only_built_has_no_latency() -> None:
    shown = line(both(), "clipped", "INT8", "tensorrt-rtx")
    assert (shown[FUSED].text, shown[FUSED].kind, shown[FUSED].detail) == (
        "yes",
        "BUILT",
        "6 of 6",
    )
    assert (shown[INT8].text, shown[INT8].kind) == ("78.1 %", "BUILT")
    assert (shown[RATIO].text, shown[RATIO].kind) == ("not run here", None)


@pytest.mark.parametrize(
    ("attentions", "fused", "word", "detail"),
    [
        (12, 12, "yes", "12 of 12"),
        (12, 6, "in part", "6 of 12"),
        (12, 0, "no", "0 of 12"),
        (0, 0, "no attention known", ""),
        (None, 6, "not recorded", ""),
        (None, None, "not recorded", ""),
    ],
)
def test_fused_is_what_the_engine_was_read_to_do(
    attentions: int | None, fused: int | None, word: str, detail: str
) -> None:
    changes = {"attentions": attentions, "fused_attentions": fused}
    rows = [row.model_copy(update=changes) for row in variant("clipped")]
    shown = line([*rows, *variant("vanilla")], "clipped", "INT8")[FUSED]
    assert (shown.text, shown.detail) == (word, detail)
    assert shown.kind == (Kind.MEASURED if detail else None)


def test_simulations_are_not_on_the_sheet() -> None:
    names = [one["Configuration"].text for one in lines(both())]
    assert names == ["FP32", "BF16", "INT8"] * 2 + ["INT8"]


def test_the_page_holds_the_sheet_only_where_variants_differ(
    written: Callable[[Sequence[Row]], str],
) -> None:
    page = page_from_html(written(both()))
    assert len(page.tables[SHEET]) == len(lines(both()))
    kinds = {row[RATIO].kind for row in page.tables[SHEET]}
    assert kinds == {"MEASURED", ""}
    assert section(variant("clipped"), summarize(variant("clipped"))) is None
    html = written(variant("clipped"))
    assert "Cost of attention variants" not in html and SHEET not in html


@pytest.mark.parametrize("field", ["task", "data"])
def test_vanilla_of_another_setting_is_no_baseline(field: str) -> None:
    rows = [*variant("clipped"), *variant("vanilla", **{field: "other"})]
    assert line(rows, "clipped", "INT8")[RATIO].text == "no vanilla to compare with"
    assert line(rows, "vanilla", "INT8")[RATIO].kind == "MEASURED"
    made = section(rows, summarize(rows))
    assert made is not None and "profile both in one call" in made.notes[-1].text


def test_vanilla_of_another_call_is_a_baseline_on_the_same_machine_only() -> None:
    """The load before a call says nothing of the machine; its processor does."""
    for changed, found in (("load_average_1m", True), ("hardware", False)):
        environment = {**ENVIRONMENT, changed: "other"}
        vanilla = variant("vanilla", session="other", environment=environment)
        shown = line([*variant("clipped"), *vanilla], "clipped", "INT8")[RATIO]
        assert (shown.kind is Kind.MEASURED) is found
        assert (shown.text == "no vanilla to compare with") is not found


@pytest.mark.parametrize("busy", ["clipped", "vanilla"])
def test_bundles_timed_on_a_machine_under_load_are_not_compared(busy: str) -> None:
    """One side ran beside others: the ratio would be theirs. Rows of one bundle share the load."""
    rows = both()
    for index, row in enumerate(rows):
        if row.attention == busy and row.latency is not None:
            blocks = [b.model_copy(update={"others": 0.4}) for b in row.latency.blocks]
            latency = row.latency.model_copy(update={"blocks": blocks})
            rows[index] = row.model_copy(update={"latency": latency})
    shown = line(rows, "clipped", "INT8")[RATIO]
    assert (shown.text, shown.kind) == ("not comparable", None)
    assert line(rows, "vanilla", "INT8")[RATIO].kind is Kind.MEASURED


def test_vanilla_of_the_same_call_goes_before_that_of_another() -> None:
    other = variant("vanilla", session="other", bundle="b-other", bundle_sha256="other")
    rows = [*other, *variant("clipped"), *variant("vanilla")]
    assert line(rows, "clipped", "INT8")[RATIO].detail.endswith("of b-vanilla")


def test_of_two_vanilla_models_the_one_of_the_same_name_is_taken() -> None:
    other = variant("vanilla", model="gpt", bundle="b-gpt", bundle_sha256="gpt")
    two = [*variant("clipped"), *variant("vanilla"), *other]
    assert line(two, "clipped", "INT8")[RATIO].text == "no vanilla to compare with"
    named = [*variant("clipped", model="bert-vanilla"), *variant("vanilla"), *other]
    detail = line(named, "clipped", "INT8")[RATIO].detail
    assert detail.endswith("against BF16 of b-vanilla")
