"""``deploy compare`` without --layers: launches, the control, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.bundle import Bundle
from deploy.profiling.comparison import compare_launches
from tests.deploy.running import run_here

QUICK = ("--launches", 4, "--rounds", 3, "--round-ms", 1, "--quiet")


@pytest.fixture(scope="module")
def compared(bundle: Bundle) -> dict[str, Any]:
    sides = (f"{bundle.path}@onnxruntime:float-fp32", f"{bundle.path}@onnxruntime")
    ended = run_here("compare", *sides, *QUICK, "--json")
    assert ended.code == 0, ended.err
    found: dict[str, Any] = ended.json
    return found


def test_every_side_is_launched_anew(compared: dict[str, Any], bundle: Bundle) -> None:
    name = bundle.path.name
    assert (compared["a"], compared["b"]) == (
        f"{name}@onnxruntime:float-fp32",
        f"{name}@onnxruntime:int8",
    )
    assert compared["kind"] == "MEASURED"
    assert set(compared["samples_ns"]) == {"A", "B", "control"}
    for launches in compared["samples_ns"].values():
        assert [len(rounds) for rounds in launches] == [3] * 4
        assert all(len(r) >= 3 and min(r) > 0 for rounds in launches for r in rounds)


def test_every_figure_follows_from_the_raw_samples(compared: dict[str, Any]) -> None:
    samples = compared["samples_ns"]
    logs = [
        np.median([np.log(np.median(x) / np.median(y)) for x, y in zip(a, b, strict=True)])
        for a, b in zip(samples["A"], samples["B"], strict=True)
    ]
    assert compared["ratio"]["value"] == pytest.approx(np.exp(np.mean(logs)))
    again = compare_launches(samples["A"], samples["B"], samples["control"])
    assert compared["verdict"] == again.verdict
    assert compared["detectable"] == pytest.approx(again.detectable)
    low, high = compared["deciding"]["low"], compared["deciding"]["high"]
    decided = compared["stable"] and not low <= 1 <= high
    assert (compared["verdict"] != "no evidence") == decided


def test_the_text_says_ratio_control_and_verdict(bundle: Bundle) -> None:
    side = f"{bundle.path}@onnxruntime"
    ended = run_here("compare", side, side, *QUICK)
    assert ended.code == 0, ended.err
    assert ended.out.count(":int8 ") == 2
    assert re.search(r"time of A ÷ time of B   [\d.]+  \[[\d.]+, [\d.]+\], 4 launches", ended.out)
    assert re.search(r"A ÷ A, the control      [\d.]+  \[[\d.]+, [\d.]+\]", ended.out)
    assert re.search(r"least effect findable   [\d.]+%", ended.out)
    assert re.search(r"verdict: (B is (faster|slower)|no evidence)  \[MEASURED, 99 %", ended.out)


def test_what_cannot_be_compared_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    side = f"{bundle.path}@onnxruntime"
    run_here("compare", side).refused(2, "1 sides given", "deploy compare BUNDLE@ENGINE")
    run_here("compare", side, side, "--launches", 3).refused(2, "--launches 4 or more")
    run_here("compare", side, side, "--rounds", 2).refused(2, "--rounds 3")
    run_here("compare", side, side, "--data", tmp_path / "none.txt").refused(10, "no data at")
    run_here("compare", side, f"{bundle.path}@onnxruntime:float-bf16").refused(3, "float-fp32")
