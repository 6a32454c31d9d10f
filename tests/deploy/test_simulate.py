"""``deploy simulate``: every combination of widths, SIMULATED, and 8 bits as in the bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import deploy
from deploy.bundle import Bundle
from tests.deploy.checkpoints import prose
from tests.deploy.running import run_here

Built = Callable[[str], Bundle]


def simulate(*words: Any) -> list[dict[str, Any]]:
    ended = run_here("simulate", *words, "--samples", 24, "--json")
    assert ended.code == 0, ended.err
    found: list[dict[str, Any]] = ended.json
    return found


def bits(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["weights_bits"], row["activation_bits"], row["logits_bits"]


def test_every_combination_is_a_row_after_the_float_graph(
    planted: Bundle, held_out: Path, tmp_path: Path
) -> None:
    out = tmp_path / "widths.jsonl"
    rows = simulate(
        planted.path, "--data", held_out, "--weights-bits", "8,4",
        "--activation-bits", "float,8", "--logits-bits", "4", "-o", out,
    )  # fmt: skip
    assert [bits(r) for r in rows] == [
        (None, None, None), (8, None, 4), (8, 8, 4), (4, None, 4), (4, 8, 4),
    ]  # fmt: skip
    assert [r["kind"] for r in rows] == ["MEASURED", *["SIMULATED"] * 4]
    assert rows[0]["drop"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows
    shown = run_here(
        "simulate", planted.path, "--data", held_out, "--logits-bits", "4", "-o", out, "--force"
    )
    assert shown.out.count("[SIMULATED]") == 1 and "cosine" in shown.out


def test_eight_bits_are_what_profile_simulates(
    planted_onnx: Path, arrays: Path, held_out: Path, tmp_path: Path
) -> None:
    planted = deploy.build(
        planted_onnx, calib="minmax", smooth="none", rounding="nearest", calib_data=arrays,
        out=tmp_path / "nearest", engine="onnxruntime",
    )  # fmt: skip
    line = ("--weights-bits", 8, "--activation-bits", 8, "-o", tmp_path / "w.jsonl")
    rows = simulate(planted.path, "--data", held_out, *line)
    profiled = deploy.profile([planted.path], data=held_out, rounds=3, round_ms=1.0, samples=24)
    (expected,) = (r.accuracy[0].value for r in profiled if r.kind == "SIMULATED")
    assert rows[1]["value"] == pytest.approx(expected, abs=1e-9)


def test_fewer_bits_of_logits_lose_more(built: Built, evaluation: Path, tmp_path: Path) -> None:
    bundle = built("bert-bare")
    line = ("--data", evaluation, "--logits-bits", "16,8,4,2", "-o", tmp_path / "w.jsonl")
    drops = [r["drop"]["value"] for r in simulate(bundle.path, *line)]
    assert drops == sorted(drops) and drops[1] < 1e-3 < drops[-1]


def test_models_with_labels_and_of_language_have_their_metric(
    built: Built, evaluation: Path, tmp_path: Path
) -> None:
    line = ("--data", evaluation, "--weights-bits", 2, "-o", tmp_path / "w.jsonl")
    rows = simulate(built("opt").path, *line)
    assert {(r["metric"], r["drop_unit"]) for r in rows} == {("perplexity", "%")}
    assert rows[1]["drop"]["value"] == pytest.approx(
        100 * (rows[1]["value"] / rows[0]["value"] - 1), rel=1e-9
    )


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ((), 2, "nothing to simulate"),
        (("--logits-bits", "float"), 2, "nothing to simulate"),
        (("--logits-bits", "8,x"), 2, "--logits-bits holds 'x'"),
        (("--weights-bits", "1"), 2, "--weights-bits holds '1'"),
        (("--activation-bits", "17"), 2, "--activation-bits holds '17'"),
        (("--logits-bits", "8", "--data", "nowhere"), 10, "no data at nowhere"),
        (("--logits-bits", "8", "-o", "taken"), 2, "taken exists"),
        (("--logits-bits", "8", "--batch-size", "0"), 2, "--batch-size is 0"),
    ],
)
def test_what_cannot_be_is_refused(
    planted: Bundle,
    held_out: Path,
    tmp_path: Path,
    more: tuple[Any, ...],
    code: int,
    words: str,
) -> None:
    (tmp_path / "taken").write_text("")
    ended = run_here("simulate", planted.path, "--data", held_out, *more, cwd=tmp_path)
    ended.refused(code, words)


def test_no_bundle_and_no_data_are_refused(planted: Bundle, held_out: Path) -> None:
    line = ("--logits-bits", "8")
    run_here("simulate", "--data", held_out, *line).refused(2, "no bundle given")
    run_here("simulate", planted.path, *line).refused(2, "needs evaluation data")


def test_labels_give_points_of_accuracy(built: Built, tmp_path: Path) -> None:
    data = tmp_path / "labels.jsonl"
    texts = prose(24, 5)
    data.write_text("\n".join(json.dumps({"text": t, "label": i % 3}) for i, t in enumerate(texts)))
    line = ("--data", data, "--weights-bits", 2, "-o", tmp_path / "w.jsonl")
    rows = simulate(built("bert-classes").path, *line)
    assert {(r["metric"], r["drop_unit"]) for r in rows} == {("accuracy", "points")}
    points = 100 * (rows[0]["value"] - rows[1]["value"])
    assert rows[1]["drop"]["value"] == pytest.approx(points, abs=1e-9)
