"""What rows carry beside their figures, of a real bundle and engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deploy.bundle import Bundle
from deploy.profiling.results import read_results
from tests.deploy.running import run_here

Built = Callable[[str], Bundle]


def test_an_int8_row_carries_its_audit_its_ranges_and_its_commands(
    built: Built, evaluation: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.jsonl"
    short = ("--rounds", 3, "--round-ms", 1, "--samples", 8, "--engine", "onnxruntime")
    ended = run_here("profile", built("bert").path, "--data", evaluation, *short, "-o", out)
    assert ended.code == 0, ended.err
    rows = read_results(out)
    assert [row.precision for row in rows] == ["fp32", "fp32", "int8"]
    for row in rows:
        assert row.built_by.startswith("deploy build ")
        assert row.measured_by.startswith("deploy profile ")
        assert "/" not in row.built_by + row.measured_by, "no path of this machine"
        assert (row.audit is not None) == (row.tensors is not None) == (row.precision == "int8")
        if row.audit is None or row.tensors is None:
            continue
        assert row.coverage is not None
        assert sum(e.macs for e in row.audit if e.executed == "int8") == row.coverage.int8_macs
        assert {m for t in row.tensors for m in t.layers} <= {e.matmul for e in row.audit}
        for tensor in row.tensors:
            assert tensor.layers and tensor.threshold <= tensor.absmax * (1 + 1e-6)
            assert tensor.kurtosis is not None and tensor.kurtosis >= 1
            assert (tensor.clipped > 0) <= (tensor.threshold < tensor.absmax)
