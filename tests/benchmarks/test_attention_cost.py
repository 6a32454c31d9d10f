"""How the cost of attention variants is taken from rounds, and a run that goes on from another."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import attention_cost
from benchmarks.attention_cost import Amount
from trueint8.errors import ConfigError


def test_a_machine_that_slows_down_does_not_move_the_ratio() -> None:
    drift = np.linspace(1, 4, 30)
    found = attention_cost._relative((3e6 * drift).tolist(), (2e6 * drift).tolist())
    assert found["relative_latency"] == pytest.approx(1.5)
    assert found["interval"] == pytest.approx([1.5, 1.5])


def test_the_interval_holds_the_ratio_of_noisy_rounds() -> None:
    draw = np.random.default_rng(3)
    sides = [(base * draw.normal(1, 0.05, 40)).tolist() for base in (3e6, 2e6)]
    low, high = attention_cost._relative(*sides)["interval"]
    assert 1.4 < low < 1.5 < high < 1.6


def test_the_baseline_is_the_fastest_float_of_vanilla() -> None:
    times = {
        ("vanilla", "openvino", "float-fp32"): 9.0,
        ("vanilla", "openvino", "float-bf16"): 7.0,
        ("vanilla", "openvino", "int8"): 4.0,
        ("clipped", "openvino", "float-bf16"): 5.0,
        ("vanilla", "onnxruntime", "float-fp32"): 3.0,
    }
    names = ("variant", "engine", "configuration")
    rows: list[dict[str, Any]] = [
        {**dict(zip(names, key, strict=True)), "p50_ms": value} for key, value in times.items()
    ]
    assert attention_cost._fastest(rows, "openvino") == "float-bf16"
    assert attention_cost._fastest([], "openvino") is None


def test_rows_of_another_amount_are_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, amount = tmp_path / "r.json", Amount(8, 128, 40)
    monkeypatch.setattr(attention_cost, "OUT", out)
    assert attention_cost._measured(amount) == []
    out.write_text(json.dumps({**asdict(amount), "rows": [{"variant": "vanilla"}]}))
    assert attention_cost._measured(amount) == [{"variant": "vanilla"}]
    with pytest.raises(ConfigError, match="another amount"):
        attention_cost._measured(Amount(1, 128, 40))
