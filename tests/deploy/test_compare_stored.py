"""``deploy compare`` of results files: what is paired, what is refused, and what is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.profiling.comparison import Rounds, compare_stored
from deploy.profiling.results import Block, Latency, Row, write_results
from tests.deploy.running import run_here
from tests.reporting.synthetic import ENVIRONMENT, synthetic_row

LAUNCHES, EACH, RUNS = 6, 4, 5


def drawn(seed: int, *, slower: float = 0.0, load: int = 0) -> list[list[int]]:
    """Return invented rounds; those of one ``load`` share what the machine does."""
    shared = np.exp(np.random.default_rng(load).normal(0, 0.05, (LAUNCHES * EACH, 1)))
    draw = np.random.default_rng(1000 + seed)
    process = np.repeat(np.exp(draw.normal(0, 0.003, (LAUNCHES, 1))), EACH, axis=0)
    noise = np.exp(draw.normal(0, 0.01, (LAUNCHES * EACH, RUNS)))
    times = 5e6 * (1 + slower) * shared * process * noise
    found: list[list[int]] = times.astype(np.int64).tolist()
    return found


def row(rounds: list[list[int]], *, launches: int = LAUNCHES, **changes: Any) -> Row:
    return synthetic_row(
        latency=Latency(
            batch=1, sequence=128, threads=4, warmup_ns=[], rounds_ns=rounds, launches=launches,
            beside=changes.pop("beside", "pool-1"),
            blocks=[changes.pop("block", Block(others=0.0, stolen=0.0, load_average_1m=0.0))]
            * len(rounds),
        ),
        **{"data_sha256": "ab" * 32, **changes},
    )  # fmt: skip


def launched(rounds: list[list[int]]) -> list[Rounds]:
    return [rounds[i * EACH : (i + 1) * EACH] for i in range(LAUNCHES)]


def results(path: Path, rows: Sequence[Row]) -> Path:
    write_results(path, rows)
    return path


@pytest.mark.parametrize("paired", [True, False])
def test_one_engine_against_itself_is_hardly_ever_called_different(paired: bool) -> None:
    other = 0 if paired else 10_000
    verdicts = [
        compare_stored(
            launched(drawn(seed, load=seed)),
            launched(drawn(seed + 500, load=seed + other)),
            paired=paired,
        ).verdict
        for seed in range(200)
    ]
    assert sum(v != "no evidence" for v in verdicts) <= 8, "2 of 200 are due at 99 %"


def test_what_ran_beside_each_other_finds_less_than_what_did_not() -> None:
    a, b = launched(drawn(1)), launched(drawn(2, slower=0.05))
    paired, apart = (compare_stored(a, b, paired=p) for p in (True, False))
    assert paired.verdict == "slower"
    assert 1 / paired.ratio.value == pytest.approx(1.05, abs=0.015)
    assert paired.detectable < apart.detectable
    assert apart.ratio.high / apart.ratio.low > paired.ratio.high / paired.ratio.low


def test_two_rows_of_one_call_are_paired(tmp_path: Path) -> None:
    file = results(
        tmp_path / "r.jsonl",
        [row(drawn(1)), row(drawn(2, slower=0.05), graph="qdq", precision="int8")],
    )
    ended = run_here("compare", f"{file}@openvino:float-fp32", f"{file}@openvino:int8")
    assert ended.code == 0, ended.err
    assert "verdict: B is slower  [MEASURED, 99 % interval 0." in ended.out
    assert f"{LAUNCHES} launches\n" in ended.out
    assert "A ÷ A, the control" in ended.out
    assert "least effect findable" in ended.out


def test_two_files_are_matched_and_not_paired(tmp_path: Path) -> None:
    sides = [
        results(
            tmp_path / f"{name}.jsonl",
            [
                row(drawn(seed, load=seed), session=name, beside=name),
                row(
                    drawn(seed + 1, load=seed),
                    session=name,
                    beside=name,
                    precision="bf16",
                    rest="bf16",
                ),
            ],
        )  # fmt: skip
        for name, seed in (("one", 1), ("two", 11))
    ]
    ended = run_here("compare", *sides)
    assert ended.code == 0, ended.err
    assert ended.out.count("verdict: no evidence") == 2
    assert ended.out.count("not paired: the two ran at different times") == 2
    found = run_here("compare", *sides, "--json").json
    assert [(f["a"].split(":")[1], f["paired"]) for f in found] == [
        ("float-fp32", False),
        ("float-bf16", False),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"environment": {**ENVIRONMENT, "cpu": "another"}}, "cpu: None and another"),
        (
            {"environment": {**ENVIRONMENT, "versions": {"openvino": "2027.0"}}},
            "version of openvino: 2026.0 and 2027.0",
        ),
        ({"data": "other.txt"}, "data: wikitext-2 test (synthetic) and other.txt"),
        ({"data_sha256": "cd" * 32}, "content of the data: abababababab and cdcdcdcdcdcd"),
    ],
)
def test_unlike_rows_are_refused_unless_it_is_said(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    a = results(tmp_path / "a.jsonl", [row(drawn(1), session="a")])
    b = results(tmp_path / "b.jsonl", [row(drawn(2), session="b", **changes)])
    run_here("compare", a, b).refused(2, words, "--allow-unlike")
    ended = run_here("compare", a, b, "--allow-unlike")
    assert ended.code == 0, ended.err
    assert "UNLIKE, compared because --allow-unlike was given" in ended.out
    assert words in ended.out


def test_one_launch_has_a_ratio_and_no_verdict(tmp_path: Path) -> None:
    rows = [
        row(drawn(1), launches=1),
        row(drawn(2, slower=0.5), launches=1, graph="qdq", precision="int8"),
    ]
    file = results(tmp_path / "r.jsonl", rows)
    ended = run_here("compare", f"{file}@openvino:float-fp32", f"{file}@openvino:int8")
    assert ended.code == 0, ended.err
    assert "time of A ÷ time of B   0.6" in ended.out
    assert "verdict: no evidence" in ended.out
    assert "too few launches" in ended.out


def test_a_loaded_machine_decides_nothing_between_two_calls(tmp_path: Path) -> None:
    busy = Block(others=0.5, stolen=0.0, load_average_1m=9.0)
    a = results(tmp_path / "a.jsonl", [row(drawn(1), session="a")])
    b = results(tmp_path / "b.jsonl", [row(drawn(2, slower=0.9), session="b", block=busy)])
    ended = run_here("compare", a, b)
    assert "verdict: no evidence" in ended.out
    assert "other processes took processor time" in ended.out


def test_selections_that_name_nothing_or_too_much(tmp_path: Path) -> None:
    two = [row(drawn(1), bundle=name) for name in ("one", "two")]
    file = results(tmp_path / "r.jsonl", two)
    run_here("compare", f"{file}@onnxruntime", file).refused(2, "no row", "one@openvino:float-fp32")
    twice = results(tmp_path / "twice.jsonl", [*two, *two])
    run_here("compare", file, twice).refused(2, "one to one")
    run_here("compare", file, tmp_path).refused(2, "results file cannot be compared with a bundle")
    run_here("compare", tmp_path / "none.jsonl", file).refused(10, "no results file")
    ended = run_here("compare", f"{file}@one@openvino:float-fp32", f"{file}@two@openvino")
    assert "verdict: no evidence" in ended.out
