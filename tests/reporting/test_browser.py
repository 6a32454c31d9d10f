"""The report as headless Chromium shows it: figures, filter, order and baseline, without a mouse.

The page's own script is driven by a second one, which a test appends and whose answer it reads
from the document that Chromium prints.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from deploy.profiling.results import Row
from deploy.profiling.summary import summarize
from tests.reporting.chromium import CHROMIUM
from tests.reporting.reading import page_from_html
from tests.reporting.synthetic import synthetic_group
from tests.reporting.test_report import LATENCY, OVERVIEW

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

Show = Callable[..., str]
ANSWER = re.compile(r'<pre id="answer">(.*?)</pre>', re.DOTALL)

READ = """
const text = (cell) => cell.querySelector(".value")?.textContent.trim() ?? "";
const overview = document.querySelector("table");
const column = (name) => [...overview.tBodies[0].rows].filter((row) => !row.hidden)
  .map((row) => text(row.querySelector(`td[data-label="${name}"]`)));
const form = document.getElementById("controls");
const left = (what) => [...document.querySelectorAll(what)].filter((item) => !item.hidden).length;
const choose = (name, value) => {
  form.elements[name].value = value;
  for (const kind of ["input", "change"]) {
    form.elements[name].dispatchEvent(new Event(kind, { bubbles: true }));
  }
};
const answer = (value) => {
  const pre = document.createElement("pre");
  pre.id = "answer";
  pre.textContent = JSON.stringify(value);
  document.body.append(pre);
};
"""


@pytest.fixture(scope="module")
def many() -> list[Row]:
    """Return SYNTHETIC rows of six bundles on two engines."""
    return [
        row
        for number in range(6)
        for engine in ("openvino", "onnxruntime")
        for row in synthetic_group(
            10 * number,
            {"fp32": 4.0 + number, **({"bf16": 3.0} if engine == "openvino" else {}), "int8": 2.0},
            {},
            engine=engine,
            model=f"model-{number % 3}",
            bundle=f"bundle-{number}",
            bundle_sha256=f"{number:064d}",
        )
    ]


@pytest.fixture(scope="module")
def show(many: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Show:
    """Return a function that opens a page in Chromium and returns the document it made of it."""
    from deploy.reporting.page import write_report

    folder = tmp_path_factory.mktemp("browser")
    write_report(many, folder / "many.html")
    whole = (folder / "many.html").read_text("utf-8")

    def run(script: str = "", html: str = whole, flags: Sequence[str] = ()) -> str:
        page = folder / "page.html"
        # a module script runs after the document and its other scripts
        added = f'<script type="module">{READ}{script}</script>' if script else ""
        page.write_text(html.replace("</body>", f"{added}</body>"), encoding="utf-8")
        line = [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
            f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000", *flags,
            "--dump-dom", page.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=120)
        return done.stdout

    return run


def answered(dom: str) -> Any:
    found = ANSWER.search(dom)
    assert found is not None, "the script failed"
    return json.loads(
        found.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    )


def test_the_rendered_figures_are_those_of_the_rows(show: Show, html: str, rows: list[Row]) -> None:
    dom = show(html=html)
    page = page_from_html(dom)
    first = summarize(rows)[0]
    assert first.int8 is not None and first.int8.median_ms is not None
    assert first.measured_speed_up is not None
    shown = page.tables[OVERVIEW][0]
    assert shown["Latency, p50: INT8"].value == f"{first.int8.median_ms.value:.2f} ms"
    assert shown["Speed-up: measured"].value == f"{first.measured_speed_up.value:.2f}×"
    assert len(page.tables[LATENCY]) == len(rows)
    without_scripts = re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)
    drawn = re.findall(r"<svg.*?</svg>", without_scripts, re.DOTALL)
    assert len(drawn) == len(page_from_html(html).specs), "a chart was not drawn"
    bar = f">{first.int8.median_ms.value:.2f} ms</text>"
    assert any(bar in svg for svg in drawn)


def test_lines_are_filtered_and_the_rest_comes_back(show: Show) -> None:
    found = answered(
        show(
            """
            const seen = { before: column("Model").length };
            choose("model", "model-1");
            seen.models = [...new Set(column("Model"))];
            choose("engine", "openvino");
            choose("text", "6.0");
            seen.engines = column("Engine");
            seen.said = form.querySelector("output").textContent;
            seen.charts = left('figure[data-engine="openvino"]');
            seen.others = left('figure[data-engine="onnxruntime"]');
            seen.verdicts = left(".statements li");
            form.reset();
            setTimeout(() => answer({ ...seen, after: column("Model").length }), 50);
            """
        )
    )
    assert found["before"] == found["after"] == 12
    assert found["models"] == ["model-1"]
    assert len(found["engines"]) < 2
    assert re.fullmatch(r"\d+ of \d+ lines shown\.", found["said"])
    assert found["verdicts"] == 2
    assert found["charts"] == 3 * 2, "bars, strips and waterfall of two bundles"
    assert found["others"] == 0


def test_a_heading_sorts_by_keyboard_and_says_so(show: Show, many: list[Row]) -> None:
    found = answered(
        show(
            """
            const buttons = [...overview.tHead.querySelectorAll("th button")];
            const button = buttons.find((b) => b.textContent === "measured");
            button.focus();
            const seen = { focus: document.activeElement === button, count: buttons.length };
            button.click();
            const heading = button.closest("th");
            seen.up = [heading.getAttribute("aria-sort"), column("Speed-up: measured")];
            button.click();
            seen.down = [heading.getAttribute("aria-sort"), column("Speed-up: measured")];
            choose("order", "1");
            seen.sorted = overview.tHead.querySelector("[aria-sort]").textContent;
            seen.models = column("Model");
            answer(seen);
            """
        )
    )
    ratios = sorted(c.measured_speed_up.value for c in summarize(many) if c.measured_speed_up)
    assert found["focus"] and found["count"] == 11
    name, values = found["up"]
    assert name == "ascending"
    assert [float(v.rstrip("×")) for v in values] == pytest.approx(ratios, abs=0.006)
    name, values = found["down"]
    assert name == "descending"
    assert [float(v.rstrip("×")) for v in values] == pytest.approx(ratios[::-1], abs=0.006)
    assert found["sorted"] == "Model"
    assert found["models"] == sorted(found["models"])


def test_another_baseline_is_one_that_was_timed(show: Show, many: list[Row]) -> None:
    found = answered(
        show(
            """
            const seen = { first: column("Speed-up: measured") };
            choose("baseline", "FP32");
            seen.single = column("Speed-up: measured");
            const cell = overview.querySelector('td[data-label="Speed-up: measured"]');
            seen.detail = cell.querySelector(".detail").textContent;
            choose("baseline", "BF16");
            seen.half = column("Speed-up: measured");
            choose("baseline", "");
            seen.last = column("Speed-up: measured");
            answer(seen);
            """
        )
    )
    comparisons = summarize(many)
    for shown, label in ((found["single"], "FP32"), (found["half"], "BF16")):
        for text, comparison in zip(shown, comparisons, strict=True):
            ratio = comparison.speed_ups.get(label)
            if ratio is None:
                assert text == f"{label} was not timed"
            else:
                assert float(text.rstrip("×")) == pytest.approx(ratio.value, abs=0.006)
    assert found["detail"].strip().endswith("against FP32")
    assert found["first"] == found["last"] != found["single"]


def test_a_narrow_screen_shows_everything_without_scrolling_sideways(show: Show) -> None:
    found = answered(
        show(
            """
            answer({ page: document.documentElement.scrollWidth, screen: innerWidth,
                     form: form.scrollWidth <= form.clientWidth,
                     wide: [...document.querySelectorAll(".stacked td")].filter(
                       (cell) => cell.getBoundingClientRect().right > innerWidth).length });
            """,
            flags=["--window-size=500,900"],
        )
    )
    assert found["page"] <= found["screen"]
    assert found["form"] and found["wide"] == 0


def test_without_a_script_everything_is_readable(show: Show, html: str) -> None:
    bare = re.sub(r"<script(?! type).*?</script>", "", html, flags=re.DOTALL)
    page = page_from_html(show(html=bare))
    assert page.tables.keys() == page_from_html(html).tables.keys()
    assert [{k: v.value for k, v in row.items()} for row in page.tables[OVERVIEW]] == [
        {k: v.value for k, v in row.items()} for row in page_from_html(html).tables[OVERVIEW]
    ]
