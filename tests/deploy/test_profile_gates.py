"""What the gates see of real runs, and ``deploy profile --strict``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import deploy
from deploy.bundle import Bundle
from deploy.profiling.gates import check_rows
from deploy.profiling.results import Row, read_results
from tests.deploy.checkpoints import LAYERS
from tests.deploy.running import run_here
from tests.deploy.test_profile import QUICK, SHORT

Built = Callable[[str], Bundle]


@pytest.fixture(scope="module")
def rows(built: Built, evaluation: Path) -> list[Row]:
    """Return rows of the masked-LM BERT on ONNX Runtime."""
    return deploy.profile([built("bert").path], data=evaluation, **QUICK)


def test_rows_hold_what_the_gates_look_at(rows: list[Row], built: Built) -> None:
    manifest = built("bert").manifest
    assert len(manifest.calibration.fingerprints) > 10
    for row in rows:
        assert row.overlap is not None and row.parity is not None and row.scores is not None
        assert row.overlap.shared == 0 < row.overlap.compared
        assert row.parity.graph == manifest.parity.relative_error
        assert row.floats == ["float-fp32"]
        simulated = row.kind == "SIMULATED"
        assert row.fused_attentions == (None if simulated else 0)
        assert row.attentions == (None if simulated else LAYERS)
        loss = sum(row.scores.sums) / sum(row.scores.counts)
        assert np.exp(loss) == pytest.approx(row.accuracy[0].value)
        assert len(row.scores.counts) == row.accuracy[0].samples


def test_the_fp32_engine_is_held_against_the_golden_outputs(rows: list[Row]) -> None:
    single, *others = [row.parity.engine for row in rows if row.parity is not None]
    assert single is not None and 0 <= single < 1e-4
    assert others == [None, None]


def test_every_round_says_what_else_the_machine_did(rows: list[Row]) -> None:
    for row in rows:
        assert row.latency is not None and row.pss_mib is not None
        assert len(row.latency.blocks) == len(row.latency.rounds_ns)
        assert all(0 <= b.others <= 1 and 0 <= b.stolen <= 1 for b in row.latency.blocks)
        assert 0 < row.pss_mib <= (row.peak_memory_mib or 0)


def test_a_line_of_the_calibration_data_is_found_in_the_evaluation_data(
    built: Built, calibration: Path, evaluation: Path, tmp_path: Path
) -> None:
    data = tmp_path / "eval.txt"
    stolen = calibration.read_text().splitlines()[3]
    data.write_text(f"{evaluation.read_text().rstrip()}\n{stolen}\n")
    found = check_rows(deploy.profile([built("bert").path], data=data, **QUICK))
    (overlap,) = (finding for finding in found if finding.name == "data-overlap")
    assert overlap.sentence.startswith("1 of ")


def test_existing_results_are_kept_without_force_and_calibration_data_is_told(
    bundle: Bundle, arrays: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r.jsonl"
    out.write_text("precious")
    line = ("profile", bundle.path, "--data", arrays, *SHORT, "--engine", "onnxruntime", "-o", out)
    run_here(*line).refused(2, f"{out} exists", "--force")
    assert out.read_text() == "precious"
    ended = run_here(*line, "--force")
    assert ended.code == 0, ended.err
    assert "warning: data-overlap: " in ended.out
    assert "also in the calibration data" in ended.out
    assert [row.overlap and row.overlap.shared for row in read_results(out)] == [8] * 3
    out.unlink()
    ended = run_here(*line, "--strict", "--quiet")
    ended.refused(12, "data-overlap", "too-few-samples")
    assert len(read_results(out)) == 3, "what was measured is kept"
