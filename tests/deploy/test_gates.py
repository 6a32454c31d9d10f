"""Every gate both ways, on SYNTHETIC rows; what they said of real ones is in test_profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from deploy.profiling.gates import GATES, check_rows, require_none, unchecked
from deploy.profiling.results import Block, Gpu, Overlap, Parity, Row
from tests.reporting.synthetic import (
    accuracy,
    synthetic_group,
    synthetic_latency,
    synthetic_row,
)
from trueint8.errors import EvidenceError
from trueint8.kinds import Kind

TIMES = {"fp32": 4.0, "bf16": 3.0, "qdq": 5.0, "int8": 2.0}


def rows() -> list[Row]:
    """Return rows of one bundle on one engine that no gate finds anything in."""
    figures = {name: [accuracy("perplexity", 28.0)] for name in TIMES}
    return synthetic_group(1, TIMES, figures)


def names(found: Sequence[Row]) -> list[str]:
    return [finding.name for finding in check_rows(found)]


def changed(**fields: Any) -> list[Row]:
    return [row.model_copy(update=fields) for row in rows()]


def with_blocks(**fields: Any) -> list[Row]:
    block = Block(**{"others": 0.0, "stolen": 0.0, "load_average_1m": 9.0, **fields})
    return [
        row.model_copy(update={"latency": row.latency.model_copy(update={"blocks": [block] * 12})})
        for row in rows()
        if row.latency is not None
    ]


def test_sound_rows_pass_every_gate() -> None:
    assert check_rows(rows()) == []
    assert unchecked(rows()) == []
    require_none([])


BAD: dict[str, Callable[[], list[Row]]] = {
    "graph": lambda: changed(parity=Parity(graph=2e-3, tolerance=1e-4)),
    "engine": lambda: changed(parity=Parity(graph=1e-6, tolerance=1e-4, engine=2e-2)),
    "not a number": lambda: changed(parity=Parity(graph=1e-6, tolerance=1e-4, engine=float("nan"))),
    "overlap": lambda: changed(overlap=Overlap(shared=1, compared=512)),
    "bf16 left out": lambda: [row for row in rows() if row.precision != "bf16"],
    "no float": lambda: [row.model_copy(update={"floats": []}) for row in rows()[2:]],
    "attention": lambda: [
        row.model_copy(update={"fused_attentions": 0 if row.graph == "float" else 6})
        for row in rows()
    ],
    "rounds": lambda: [
        row.model_copy(update={"latency": synthetic_latency(2.0, 1, rounds=9)}) for row in rows()
    ],
    "sequences": lambda: [
        row.model_copy(update={"accuracy": [row.accuracy[0].model_copy(update={"samples": 29})]})
        for row in rows()
    ],
    "others": lambda: with_blocks(others=0.11),
    "stolen": lambda: with_blocks(stolen=0.03),
    "heat": lambda: with_blocks(throttle_events=1),
    "gpu": lambda: with_blocks(gpu=Gpu(throttled=["power cap"])),
}

CASES = [
    ("graph", "baseline-differs", "2.0e-03 of the largest output"),
    ("engine", "baseline-differs", "FP32 baseline differs from the float graph by 2.0e-02"),
    ("not a number", "baseline-differs", "by nan"),
    ("overlap", "data-overlap", "1 of 512 pieces"),
    ("bf16 left out", "float-precision", "float-bf16, which was not timed"),
    ("no float", "float-precision", "no float baseline"),
    ("attention", "float-attention", "INT8 has 6 fused attentions, and no float baseline"),
    ("rounds", "too-few-samples", "9 rounds"),
    ("sequences", "too-few-samples", "29 sequences"),
    ("others", "machine-under-load", "other processes took 11 %"),
    ("stolen", "machine-under-load", "hypervisor withheld 3 %"),
    ("heat", "throttled", "cores were slowed down for heat in 48 of 48 rounds"),
    ("gpu", "throttled", "the GPU was slowed down (power cap) in 48 of 48 rounds"),
]


@pytest.mark.parametrize(("bad", "gate", "words"), CASES)
def test_a_gate_names_what_it_found(bad: str, gate: str, words: str) -> None:
    (finding,) = check_rows(BAD[bad]())
    assert finding.name == gate
    assert words in finding.sentence
    assert finding.subjects == ("tiny-gpt-clipped on openvino",)
    assert finding.fix
    with pytest.raises(EvidenceError, match=gate) as caught:
        require_none([finding])
    assert (caught.value.fix, caught.value.exit_code) == (finding.fix, 12)


def test_every_gate_is_tested() -> None:
    assert {gate for _, gate, _ in CASES} == set(GATES)


@pytest.mark.parametrize(("others", "stolen"), [(0.09, 0.0), (0.0, 0.019)])
def test_a_little_load_is_let_pass(others: float, stolen: float) -> None:
    """The load average counts the measuring itself and is not asked where blocks are kept."""
    assert check_rows(with_blocks(others=others, stolen=stolen)) == []


def test_an_fp32_engine_within_rounding_is_let_pass() -> None:
    assert check_rows(changed(parity=Parity(graph=1e-6, tolerance=1e-4, engine=4e-3))) == []


def test_rows_of_version_1_are_judged_by_what_they_say() -> None:
    old = changed(parity=None, overlap=None, floats=None, scores=None, fused_attentions=None)
    old = [
        row.model_copy(update={"latency": row.latency.model_copy(update={"blocks": []})})
        for row in old
        if row.latency is not None
    ]
    assert names(old) == []
    lacking = [name for name in GATES if name != "too-few-samples"]
    assert unchecked(old) == lacking
    for load, expected in ((3.9, []), (4.1, ["machine-under-load"])):
        environment = {"load_average_1m": load, "cores": 8}
        loaded = [row.model_copy(update={"environment": environment}) for row in old]
        assert names(loaded) == expected


def test_an_engine_that_was_only_built_is_asked_nothing() -> None:
    built = synthetic_row(graph="qdq", precision="int8", kind=Kind.BUILT)
    assert check_rows([built]) == []
    assert unchecked([built]) == []


def test_the_same_words_of_several_subjects_are_one_finding() -> None:
    two = [
        row.model_copy(update={"bundle": name, "bundle_sha256": name})
        for name in ("one", "two")
        for row in BAD["overlap"]()
    ]
    (finding,) = check_rows(two)
    assert finding.subjects == ("one on openvino", "two on openvino")
    assert finding.text.startswith("one on openvino, two on openvino: 1 of 512")
