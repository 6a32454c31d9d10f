"""Every figure on the first screen, computed again from the raw samples that the page carries.

Nothing of the product's statistics is used: percentiles, resampling and ratios are written out.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.reporting.reading import Page
from tests.reporting.test_report import OVERVIEW

Raw = dict[str, Any]
FIGURE = re.compile(r"[-+]?\d+\.\d+")
NO_FIGURE = re.compile(r"FP32|BF16|95 %|compute capability \S+")
SEED, ROUNDS_DRAWN, SEQUENCES_DRAWN = 20260101, 2000, 1000


@pytest.fixture(scope="module")
def raw(page: Page) -> list[Raw]:
    """Return the rows that the page offers to save, as plain JSON."""
    link = next(v for _, _, v in page.attributes if v.startswith("data:application/gzip"))
    lines = gzip.decompress(base64.b64decode(link.partition(",")[2])).decode().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def sentences(html: str) -> dict[tuple[str, str], str]:
    """Return the verdicts by model and engine, without markup."""
    listed = re.search(r'<ul class="statements".*?</ul>', html, re.DOTALL)
    assert listed is not None
    items = re.findall(r"<li .*?>(.*?)</li>", listed[0], re.DOTALL)
    plain = [re.sub(r"<[^>]+>", "", item).strip() for item in items]
    found = [re.fullmatch(r"(.+?) \(.+?\): INT8 on (.+?): (.+)", text) for text in plain]
    return {(m[1], m[2]): m[3] for m in found if m is not None}


def one(raw: list[Raw], model: str, engine: str, graph: str, precision: str) -> Raw:
    wanted = (model, engine, graph, precision)
    (row,) = (r for r in raw if (r["model"], r["engine"], r["graph"], r["precision"]) == wanted)
    return row


def median(row: Raw, pick: list[int] | None = None) -> float:
    rounds = row["latency"]["rounds_ns"]
    samples: list[int] = sorted(
        s for i in (range(len(rounds)) if pick is None else pick) for s in rounds[i]
    )
    half = len(samples) // 2
    return (samples[half] if len(samples) % 2 else (samples[half - 1] + samples[half]) / 2) / 1e6


def spread(count: int, draws: int, figure: Callable[[list[int]], float]) -> tuple[float, ...]:
    """Return the 2.5th and 97.5th percentile of a figure over what is drawn with replacement."""
    picks = np.random.default_rng(SEED).integers(0, count, size=(draws, count)).tolist()
    values = sorted(map(figure, picks))
    ends = []
    for share in (0.025, 0.975):
        at = share * (draws - 1)
        below = int(at)
        ends.append(values[below] + (at - below) * (values[below + 1] - values[below]))
    return tuple(ends)


def speed(baseline: Raw, candidate: Raw) -> tuple[float, ...]:
    count = len(baseline["latency"]["rounds_ns"])
    ends = spread(count, ROUNDS_DRAWN, lambda p: median(baseline, p) / median(candidate, p))
    return (median(baseline) / median(candidate), *ends)


def change(floating: Raw, int8: Raw) -> tuple[float, ...]:
    """Return what happened to the metric: percent of perplexity, or points of accuracy."""
    sides = [(row["scores"]["sums"], row["scores"]["counts"]) for row in (floating, int8)]

    def figure(pick: list[int]) -> float:
        f, c = (float(sum(s[i] for i in pick) / sum(n[i] for i in pick)) for s, n in sides)
        if floating["scores"]["metric"] == "perplexity":
            return 100 * (float(np.exp(c)) / float(np.exp(f)) - 1)
        return 100 * (c - f)

    count = len(sides[0][0])
    return (figure(list(range(count))), *spread(count, SEQUENCES_DRAWN, figure))


def expected(raw: list[Raw], model: str, engine: str) -> Iterator[float]:
    """Yield every figure of a sentence in its order: speed-ups, accuracy, coverage."""
    int8 = one(raw, model, engine, "qdq", "int8")
    if "latency" in int8:
        floats = [
            r for r in raw if (r["model"], r["engine"], r["graph"]) == (model, engine, "float")
        ]
        for row in sorted(floats, key=median):
            yield from speed(row, int8)
        yield from change(one(raw, model, engine, "float", "fp32"), int8)
    found = int8["coverage"]
    yield 100 * found["int8_macs"] / found["total_macs"]


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        ("tiny-gpt", "openvino"),
        ("tiny-gpt", "onnxruntime"),
        ("tiny-gpt", "tensorrt-rtx"),
        ("bert-mini", "openvino"),
    ],
)
def test_no_figure_of_a_verdict_is_anything_but_the_raw_samples(
    model: str, engine: str, raw: list[Raw], sentences: dict[tuple[str, str], str]
) -> None:
    shown = FIGURE.findall(NO_FIGURE.sub("", sentences[model, engine]))
    figures = list(expected(raw, model, engine))
    assert len(shown) == len(figures), (shown, figures)
    for text, value in zip(shown, figures, strict=True):
        decimals = len(text.partition(".")[2])
        assert float(text) == pytest.approx(value, abs=0.5001 * 10**-decimals), sentences


def test_no_figure_of_the_table_is_either(page: Page, raw: list[Raw]) -> None:
    checked = 0
    for line in page.tables[OVERVIEW]:
        model, engine = line["Model"].value, line["Engine"].value
        if engine == "tensorrt-rtx":
            continue
        fp32, qdq, int8 = (
            one(raw, model, engine, *which)
            for which in (("float", "fp32"), ("qdq", "fp32"), ("qdq", "int8"))
        )
        floats = [
            r for r in raw if (r["model"], r["engine"], r["graph"]) == (model, engine, "float")
        ]
        fastest = min(floats, key=median)
        wanted = {
            "Latency, p50: fastest float": (median(fastest), *latency_ends(fastest)),
            "Latency, p50: INT8": (median(int8), *latency_ends(int8)),
            "Speed-up: simulated": speed(fp32, qdq),
            "Speed-up: measured": speed(fastest, int8),
            "Accuracy: float": (fp32["accuracy"][0]["value"],),
            "Accuracy: Q/DQ in FP32": (qdq["accuracy"][0]["value"],),
            "Accuracy: INT8": (int8["accuracy"][0]["value"],),
        }
        for name, values in wanted.items():
            cell = line[name]
            told = f"{cell.value} {cell.detail}" if len(values) > 1 else cell.value
            shown = FIGURE.findall(told)
            assert len(shown) == len(values), (name, shown)
            for text, value in zip(shown, values, strict=True):
                decimals = len(text.partition(".")[2])
                assert float(text) == pytest.approx(value, abs=0.5001 * 10**-decimals), name
                checked += 1
    assert checked == 3 * (4 * 3 + 3)


def latency_ends(row: Raw) -> tuple[float, ...]:
    return spread(len(row["latency"]["rounds_ns"]), ROUNDS_DRAWN, lambda pick: median(row, pick))
