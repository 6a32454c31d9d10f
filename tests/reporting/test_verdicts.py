"""The sentence per model and engine, redone from raw samples and scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from deploy.profiling.results import Row, SequenceScores
from deploy.profiling.summary import summarize
from deploy.reporting.verdicts import verdict_of
from tests.reporting.synthetic import (
    Metric,
    accuracy,
    scores,
    synthetic_group,
    synthetic_latency,
    synthetic_row,
)
from trueint8.kinds import Kind

TIMES = {"fp32": 4.0, "bf16": 3.0, "qdq": 5.0, "int8": 2.0}


def sentence(rows: Sequence[Row]) -> str:
    (comparison,) = summarize(rows)
    return verdict_of(comparison).text


def scored(metric: Metric, float_value: float, int8_value: float) -> list[Row]:
    values = dict.fromkeys(TIMES, float_value) | {"int8": int8_value}
    return synthetic_group(1, TIMES, {name: [accuracy(metric, v)] for name, v in values.items()})


def hand_change(rows: Sequence[Row], figure: str) -> tuple[float, float, float]:
    """Return the change in the metric and its paired interval, written out anew."""
    floating, int8 = (row.scores for row in rows if row.label in ("FP32", "INT8"))
    assert floating is not None and int8 is not None
    draw = np.random.default_rng(20260101)
    picks = [list(range(64)), *draw.integers(0, 64, size=(1000, 64)).tolist()]
    changes = []
    for pick in picks:
        f, c = (_mean(side, pick) for side in (floating, int8))
        changes.append(100 * (np.exp(c - f) - 1) if figure == "perplexity" else 100 * (c - f))
    low, high = np.percentile(changes[1:], [2.5, 97.5])
    return float(changes[0]), float(low), float(high)


def _mean(side: SequenceScores, pick: Sequence[int]) -> float:
    return sum(side.sums[i] for i in pick) / sum(side.counts[i] for i in pick)


@pytest.mark.parametrize(
    ("metric", "values", "words"),
    [
        ("perplexity", (28.0, 28.5), "perplexity {:+.2f} % [{:+.2f}, {:+.2f}]"),
        ("accuracy", (0.91, 0.907), "accuracy {:+.2f} points [{:+.2f}, {:+.2f}]"),
    ],
)
def test_the_change_of_accuracy_has_its_paired_interval(
    metric: Metric, values: tuple[float, float], words: str
) -> None:
    rows = scored(metric, *values)
    change, low, high = hand_change(rows, metric)
    assert words.format(change, low, high) in sentence(rows)
    expected = 100 * (
        values[1] / values[0] - 1 if metric == "perplexity" else np.subtract(*values[::-1])
    )
    assert change == pytest.approx(expected, abs=1e-6)
    # sequences differ by 0.1 and the pair by 0.002 of the mean score: unpaired it would be 2.4 %
    assert high - low < 0.3


def test_cosine_is_held_against_the_float_outputs() -> None:
    rows = scored("cosine", 0.998, 0.998)
    same = SequenceScores(metric="cosine", sums=[127.0] * 64, counts=[127] * 64)
    rows[0] = rows[0].model_copy(update={"scores": same})
    assert "cosine to the FP32 outputs 0.99800 [0.9" in sentence(rows)


def test_speed_is_said_against_every_float_the_fastest_first() -> None:
    text = sentence(scored("accuracy", 0.9, 0.9))
    fast, slow = text.index("than BF16, the fastest float; "), text.index("than FP32; accuracy")
    assert fast < slow
    assert text.startswith("1.5")
    assert text.endswith("78.1 % of MACs run in INT8.")


@pytest.mark.parametrize(
    ("int8_ms", "words"),
    [
        (4.0, "no evidence of a difference in speed to FP32, 1.00"),
        (6.0, "slower than FP32, 0.67× its speed ["),
        (2.0, "faster ["),
    ],
)
def test_no_evidence_and_slower_are_said_so(int8_ms: float, words: str) -> None:
    text = sentence(synthetic_group(40, {"fp32": 4.0, "int8": int8_ms}, {}))
    assert words in text
    assert "the fastest float" not in text, "there is one"
    assert "accuracy was not computed" in text


def test_what_was_not_measured_is_not_claimed() -> None:
    one = scored("accuracy", 0.9, 0.9)
    single = [
        row.model_copy(update={"latency": synthetic_latency(2.0, 1, rounds=1)}) for row in one
    ]
    assert "in one round, which is no evidence" in sentence(single)
    old = [row.model_copy(update={"scores": None}) for row in one]
    assert "accuracy 0.9000 where FP32 has 0.9000, no interval recorded" in sentence(old)
    assert sentence(one[:2]) == "not in these results."
    uncounted = [row.model_copy(update={"coverage": None}) for row in one]
    assert "the share of MACs in INT8 is unknown" in sentence(uncounted)
    built = synthetic_row(graph="qdq", precision="int8", kind=Kind.BUILT, coverage=one[3].coverage)
    (comparison,) = summarize([built])
    note = verdict_of(comparison)
    assert note.kind is Kind.BUILT
    assert note.text == "not run here; 78.1 % of MACs run in INT8 by the engine's word."


def test_scores_of_other_sequences_are_not_paired() -> None:
    rows = scored("accuracy", 0.9, 0.9)
    other = scores([accuracy("accuracy", 0.9)])
    assert other is not None
    shorter = other.model_copy(update={"sums": other.sums[:60], "counts": other.counts[:60]})
    rows[3] = rows[3].model_copy(update={"scores": shorter})
    assert "no interval recorded" in sentence(rows)
