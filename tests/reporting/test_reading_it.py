"""The report read without a mouse, on a phone, in the dark, on paper and by a screen reader.

Keys are pressed and screens are sized in a real browser; nothing is called in the page's script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.profiling.results import Row
from deploy.profiling.summary import summarize
from deploy.reporting.page import write_report
from tests.reporting.chromium import CHROMIUM, Tab, browser
from tests.reporting.synthetic import accuracy, synthetic_group, synthetic_rows

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

PHONE, DESK, PAPER = 390, 1280, 1040
MOST_BYTES = 3_000_000
READABLE = 4.5
"""Contrast of text (WCAG 2.2, 1.4.3)."""

FOCUS = """(() => {
  const e = document.activeElement, s = getComputedStyle(e);
  return { tag: e.tagName.toLowerCase(), text: e.textContent.trim().slice(0, 60),
           label: e.getAttribute("aria-label") ?? "", href: e.getAttribute("href") ?? "",
           name: e.name ?? "", outline: s.outlineStyle !== "none" && s.outlineWidth !== "0px",
           seen: e.getBoundingClientRect().top < innerHeight,
           sort: e.closest("th")?.getAttribute("aria-sort") ?? "" };
})()"""

CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = (e) => {
    for (let at = e; at; at = at.parentElement) {
      const found = rgb(getComputedStyle(at).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255];
  };
  const worst = {};
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !e.checkVisibility()) continue;
    const svg = e.closest("svg") !== null;
    const style = getComputedStyle(e);
    const ink = svg ? style.fill : style.color;
    const pair = [light(rgb(ink)), light(paper(e))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    const key = `${e.tagName.toLowerCase()}.${e.getAttribute("class") ?? ""}`;
    worst[key] = Math.min(worst[key] ?? 99, ratio);
  }
  return worst;
})()"""

SIDEWAYS = """({
  page: document.documentElement.scrollWidth, screen: document.documentElement.clientWidth,
  beyond: [...document.querySelectorAll("h1, h2, h3, p, li, figure, svg, .frame, pre, form")]
    .filter((e) => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1)
    .map((e) => e.outerHTML.slice(0, 80)),
  stuck: [...document.querySelectorAll(".frame, pre, ul.statements, .charts")]
    .filter((e) => (e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight + 1)
      && e.tabIndex !== 0).length,
  cut: [...document.querySelectorAll("svg text")].filter((t) => {
    const [box, frame] = [t.getBoundingClientRect(),
      t.closest(".chart").getBoundingClientRect()];
    return box.width && (box.right > frame.right + 2 || box.left < frame.left - 2);
  }).map((t) => t.textContent),
})"""


@pytest.fixture(scope="module")
def many() -> list[Row]:
    """Return SYNTHETIC rows: 8 variants × 2 engines, four configurations each, one built."""
    quality = {"fp32": 28.4, "bf16": 28.44, "qdq": 28.9, "int8": 28.93}
    return [
        row
        for number in range(8)
        for engine in ("openvino", "onnxruntime")
        for row in synthetic_group(
            10 * number,
            {"fp32": 4.0 + number / 4, "bf16": 3.0, "qdq": 5.0, "int8": 1.5 + number / 5},
            {k: [accuracy("perplexity", v - number / 20)] for k, v in quality.items()},
            engine=engine,
            model="tiny-gpt",
            attention=f"variant-{number}",
            bundle=f"tiny-gpt-variant-{number}-percentile",
            bundle_sha256=f"{number:064d}",
        )
    ]


@pytest.fixture(scope="module")
def pages(many: list[Row], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return one report of few rows, and one of 64."""
    folder = tmp_path_factory.mktemp("pages")
    for name, rows in (("few", synthetic_rows()), ("many", many)):
        write_report(rows, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in ("few", "many")}


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """Return a page of a browser that is started once."""
    with browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


def tabbed_to(tab: Tab, wanted: str, value: str, most: int = 80) -> dict[str, Any]:
    """Press Tab until what has the focus is it; every stop on the way is visible."""
    for _ in range(most):
        tab.press("Tab")
        found: dict[str, Any] = tab.run(FOCUS)
        assert found["outline"], f"nothing shows where the focus is: {found}"
        if found[wanted] == value:
            return found
    raise AssertionError(f"{value} cannot be reached by keyboard")


def column(tab: Tab, name: str) -> list[str]:
    script = f"""[...document.querySelector("#overview tbody").rows].filter((r) => !r.hidden)
      .map((r) => r.querySelector('td[data-label="{name}"] .value').textContent.trim())"""
    found: list[str] = tab.run(script)
    return found


def test_the_first_stop_skips_to_the_verdict(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["few"], DESK)
    tab.press("Tab")
    first = tab.run(FOCUS)
    assert (first["href"], first["outline"], first["seen"]) == ("#main", True, True)
    tab.press("Enter")
    tab.press("Tab")
    beyond = tab.run(FOCUS)
    assert beyond["tag"] != "a", "the links of the header are skipped"


def test_a_table_is_sorted_by_keys(tab: Tab, pages: dict[str, Path], many: list[Row]) -> None:
    tab.open(pages["many"], DESK)
    tabbed_to(tab, "text", "measured")
    ratios = [c.measured_speed_up.value for c in summarize(many) if c.measured_speed_up]
    for key, name, wanted in (
        ("Enter", "ascending", sorted(ratios)),
        ("Space", "descending", sorted(ratios, reverse=True)),
    ):
        tab.press(key)
        assert tab.run(FOCUS)["sort"] == name, "the focus stays, and says how"
        shown = [float(text.rstrip("×")) for text in column(tab, "Speed-up: measured")]
        assert shown == pytest.approx(wanted, abs=0.006)


def test_lines_are_filtered_by_keys_and_come_back(
    tab: Tab, pages: dict[str, Path], many: list[Row]
) -> None:
    tab.open(pages["many"], DESK)
    assert len(column(tab, "Engine")) == 16
    tabbed_to(tab, "name", "engine")
    tab.press("ArrowDown")
    assert set(column(tab, "Engine")) == {"openvino"}
    said = tab.run('document.querySelector("#controls output").textContent')
    assert re.match(r"\d+ of \d+ lines shown", said)
    tab.press("Tab")
    tabbed_to(tab, "text", "Show all", most=6)
    tab.press("Enter")
    tab.run("new Promise((done) => setTimeout(done, 20))")
    assert len(column(tab, "Engine")) == 16


def test_a_wide_or_long_table_scrolls_by_keys(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["many"], PHONE)
    tabbed_to(tab, "label", "Audit: What each engine executes", most=200)
    before = tab.run("[document.activeElement.scrollLeft, document.activeElement.scrollTop]")
    for key in ("ArrowRight", "ArrowDown"):
        tab.press(key)
    tab.run("new Promise((done) => setTimeout(done, 400))")
    after = tab.run("[document.activeElement.scrollLeft, document.activeElement.scrollTop]")
    assert before == [0, 0] and after[0] > 0 and after[1] > 0


@pytest.mark.parametrize("name", ["few", "many"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_is_beyond_the_edge(
    tab: Tab, pages: dict[str, Path], name: str, width: int
) -> None:
    tab.open(pages[name], width)
    found = tab.run(SIDEWAYS)
    assert found["page"] <= found["screen"]
    assert found["beyond"] == [] and found["cut"] == []
    assert found["stuck"] == 0, "what scrolls can have the focus"


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_stands_out(tab: Tab, pages: dict[str, Path], dark: bool) -> None:
    tab.open(pages["few"], DESK, dark=dark)
    found = tab.run(CONTRAST)
    assert len(found) > 25
    assert {key: ratio for key, ratio in found.items() if ratio < READABLE} == {}


def test_paper_shows_whole_tables_and_all_charts(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["few"], PAPER)
    tab.ask("Emulation.setEmulatedMedia", media="print")
    found = tab.run(
        """({ cut: [...document.querySelectorAll(".frame, pre")].filter((e) =>
                e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1).length,
              controls: [...document.querySelectorAll("nav, #controls, .skip, .downloads")]
                .filter((e) => e.checkVisibility()).length,
              boxes: [...document.querySelectorAll("th button")]
                .filter((e) => getComputedStyle(e).display !== "contents").length,
              paper: getComputedStyle(document.body).backgroundColor })"""
    )
    tab.ask("Emulation.setEmulatedMedia", media="")
    assert found == {"cut": 0, "controls": 0, "boxes": 0, "paper": "rgb(255, 255, 255)"}
    assert tab.printed().startswith(b"%PDF")


def test_a_screen_reader_is_told_of_everything(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["few"], DESK)
    nodes = tab.ask("Accessibility.getFullAXTree")["nodes"]
    told = [
        (n["role"]["value"], n.get("name", {}).get("value", ""))
        for n in nodes
        if not n.get("ignored") and "role" in n
    ]
    needy = {"link", "button", "table", "figure", "region", "image", "combobox", "heading", "form"}
    assert [(role, name) for role, name in told if role in needy and not name.strip()] == []
    roles = [role for role, _ in told]
    charts = tab.run('document.querySelectorAll("figure").length')
    pictures = [name for role, name in told if role == "image"]
    assert len(pictures) == charts and all(len(name) > 60 for name in pictures)
    assert "SvgRoot" not in roles, "marks and ticks are not read out one by one"
    assert roles.count("table") == tab.run('document.querySelectorAll("table").length')
    assert {"main", "navigation", "banner", "contentinfo"} <= set(roles)
    levels = tab.run('[...document.querySelectorAll("h1,h2,h3,h4")].map((h) => +h.tagName[1])')
    assert levels[0] == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))


def test_the_drawn_charts_show_the_figures(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["few"], DESK)
    drawn = tab.run(
        """Object.fromEntries([...document.querySelectorAll("section")].map((s) => [s.id,
             [...s.querySelectorAll("svg")].map((svg) =>
               [...svg.querySelectorAll("text")].map((t) => t.textContent))]))"""
    )
    assert {"1", "2", "3"} <= set(drawn["pareto"][0]), "the front is numbered"
    first = next(row.ledger for row in synthetic_rows() if row.ledger is not None)
    waterfall = drawn["ledger"][0]
    assert f"{first.ceiling_ms:.2f}" in waterfall and f"{first.latency.value:.2f}" in waterfall
    assert f"{first.parts[0].ms:+.2f}" in waterfall
    assert "threshold" in drawn["ranges"][0]


def test_a_report_of_many_rows_stays_small(pages: dict[str, Path]) -> None:
    assert pages["many"].stat().st_size < MOST_BYTES
