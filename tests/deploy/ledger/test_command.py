"""``deploy ledger`` of a bundle with real engines, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.bundle import Bundle
from deploy.ledger.record import PARTS, Ledger
from deploy.ledger.text import ledger_lines
from deploy.profiling.results import Row, read_results, write_results
from tests.deploy.running import run_here
from tests.reporting.synthetic import synthetic_row

QUICK = ("--rounds", "3", "--round-ms", "1")
WIDTH = 100


def row_of(bundle: Bundle, **changes: Any) -> Row:
    return synthetic_row(bundle_sha256=bundle.sha256, engine="onnxruntime", **changes)


@pytest.fixture(scope="module")
def results(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a results file with rows of the bundle, none of which was ever measured."""
    path = tmp_path_factory.mktemp("ledger") / "results.jsonl"
    floats = {"graph": "float", "precision": "fp32", "kind": "MEASURED", "coverage": None}
    int8 = {"graph": "qdq", "precision": "int8", "kind": "MEASURED"}
    simulated = int8 | {"precision": "fp32", "kind": "SIMULATED"}
    rows = [row_of(bundle, rest="fp32", **kind) for kind in (floats, int8, simulated)]
    write_results(path, [*rows, rows[0].model_copy(update={"bundle_sha256": "another"})])
    return path


@pytest.fixture(scope="module")
def ledgers(bundle: Bundle, results: Path) -> list[Ledger]:
    ended = run_here("ledger", bundle.path, *QUICK, "--json", "--into", results)
    assert ended.code == 0, ended.err
    return [Ledger.model_validate(plain) for plain in ended.json]


def test_every_configuration_of_every_engine_has_a_ledger(ledgers: list[Ledger]) -> None:
    found = {(ledger.engine, ledger.configuration) for ledger in ledgers}
    assert {("onnxruntime", "float-fp32"), ("onnxruntime", "int8")} <= found
    assert {("openvino", "float-fp32"), ("openvino", "int8")} <= found


def test_ceiling_parts_and_unexplained_add_up(ledgers: list[Ledger]) -> None:
    for ledger in ledgers:
        assert tuple(part.name for part in ledger.parts) == PARTS
        whole = ledger.ceiling_ms + sum(p.ms for p in ledger.parts) + ledger.unexplained_ms
        assert whole == pytest.approx(ledger.latency.value)
        held = sum(part.ceiling_ms for part in ledger.parts)
        assert held == pytest.approx(ledger.ceiling_ms)
        assert not ledger.not_found


def test_the_ceiling_is_the_roofline_of_what_was_probed(
    ledgers: list[Ledger], bundle: Bundle
) -> None:
    rows = next(iter(ledgers[0].shapes.values()))[0]
    macs = sum(matmul.macs for matmul in bundle.manifest.matmuls) * rows
    for ledger in ledgers:
        assert ledger.macs == macs
        peak = next(p for p in ledger.probe.peaks if p.precision == ledger.precision)
        least = max(macs / peak.macs_per_s, ledger.bytes / ledger.probe.bytes_per_s) * 1e3
        most = (macs / peak.macs_per_s + ledger.bytes / ledger.probe.bytes_per_s) * 1e3
        assert least <= ledger.ceiling_ms * (1 + 1e-9) and ledger.ceiling_ms <= most
    sizes = {ledger.precision: ledger.bytes for ledger in ledgers}
    assert sizes["fp32"] == 4 * sizes["int8"]


def test_predicted_simulated_and_measured_stand_side_by_side(ledgers: list[Ledger]) -> None:
    for ledger in ledgers:
        found = {s.source: s for s in ledger.speed_ups}
        predicted = {s for s, x in found.items() if x.kind == "PREDICTED"}
        assert predicted == {"bits", "macs", "bandwidth", "ceiling"}
        assert found["measured"].kind == "MEASURED" and found["measured"].low is not None
        assert ("simulated" in found) == (ledger.configuration == "int8")
        if ledger.configuration == "float-fp32":
            assert {x.value for x in found.values()} == {1.0}
        if ledger.configuration == "int8":
            further = found.get("fastest float", found["measured"])
            assert (further.baseline == "float-fp32") == ("fastest float" not in found)
            assert further.value <= found["measured"].value
            assert found["bits"].value == 4 and found["simulated"].kind == "SIMULATED"


def test_the_rows_of_the_results_file_get_their_ledgers(
    ledgers: list[Ledger], results: Path
) -> None:
    by_name = {(ledger.engine, ledger.configuration): ledger for ledger in ledgers}
    single, int8, simulated, another = read_results(results)
    assert single.ledger == by_name["onnxruntime", "float-fp32"]
    assert int8.ledger == by_name["onnxruntime", "int8"]
    assert simulated.ledger is None and another.ledger is None


def test_the_text_fits_and_tells_all(ledgers: list[Ledger]) -> None:
    lines = list(ledger_lines([x for x in ledgers if x.engine == "openvino"]))
    assert max(map(len, lines)) <= WIDTH
    text = "\n".join(lines)
    for words in (*PARTS, "ceiling [PREDICTED]", "unexplained", "= latency [MEASURED]"):
        assert words in text
    assert "Q/DQ in FP32 [SIMULATED]" in text
    assert "dispatch: call " in text and "FullyConnected int8" in text


def test_a_long_name_is_folded_above_its_column(ledgers: list[Ledger]) -> None:
    first = ledgers[0]
    eager = first.model_copy(update={"configuration": "float-bf16-eager"})
    _, names, modes, *_ = ledger_lines([first, eager])
    assert names.split() == [first.configuration, "float-bf16"] and modes.split() == ["-eager"]
    assert len(names) == len(modes)


@pytest.mark.slow
def test_a_ledger_at_other_shapes(bundle: Bundle) -> None:
    shapes = ("--shapes", "input_ids:2x8")
    ended = run_here("ledger", bundle.path, "--engine", "onnxruntime", *QUICK, *shapes)
    assert ended.code == 0, ended.err
    assert "input_ids:2x8" in ended.out and "attention_mask:2x8" in ended.out


def test_what_has_no_ledger_is_refused(bundle: Bundle, results: Path, tmp_path: Path) -> None:
    run_here("ledger").refused(2, "no bundle given")
    run_here("ledger", bundle.path, "--rounds", "2").refused(2, "2 rounds give no interval")
    run_here("ledger", bundle.path, "--engine", "tensorrt").refused(3, "no engine 'tensorrt'")
    run_here("ledger", bundle.path, "--shapes", "nope:2x8").refused(2, "no input 'nope'")
    other = tmp_path / "other.jsonl"
    write_results(other, read_results(results)[-1:])
    run_here("ledger", bundle.path, "--into", other).refused(2, "holds no row of this bundle")
