"""Throughput, memory, energy, loading and builds: tables, JSON and CSV against the raw figures."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from deploy.profiling.rates import joules_per_run, throughput_ratio
from deploy.profiling.results import Row, Throughput
from deploy.profiling.summary import summarize
from deploy.reporting.published import ReportDocument, csv_report, report_document
from deploy.reporting.sections import generation, resources
from tests.reporting.reading import Page, Seen, page_from_html
from tests.reporting.synthetic import synthetic_group
from trueint8.kinds import Kind

Write = Callable[[Sequence[Row]], str]
THROUGHPUT = "Throughput by batch and streams"
MEMORY = "Memory, size and loading"
OLD = Path(__file__).parents[1] / "golden" / "report-1.json"


def rates(held: Throughput) -> list[float]:
    """Return sequences per second of each round, written out anew."""
    return [sum(1e9 * held.batch * runs / ns for runs, ns in of) for of in held.rounds]


def shown(page: Page, table: str, configuration: str) -> list[dict[str, Seen]]:
    lines = [row for row in page.tables[table] if row["Configuration"].value == configuration]
    return [line for line in lines if line["Engine"].value == "openvino"]


def test_throughput_is_that_of_the_rounds(page: Page, rows: list[Row]) -> None:
    for row in rows[:4]:
        lines = shown(page, THROUGHPUT, row.label)
        assert len(lines) == len(row.throughput) == (0 if row.kind == "SIMULATED" else 2)
        for line, held in zip(lines, row.throughput, strict=True):
            assert (line["Batch"].value, line["Streams"].value) == (
                str(held.batch), str(held.streams),
            )  # fmt: skip
            cell = line["Throughput: sequences/s"]
            assert cell.value == f"{statistics.median(rates(held)):.1f}"
            low, _, high = cell.detail.partition(" – ")
            assert float(low) < float(cell.value) < float(high) and cell.kind == "MEASURED"


def test_int8_is_held_against_the_float_that_gives_most(page: Page, rows: list[Row]) -> None:
    bf16, int8 = rows[1].throughput[1], rows[3].throughput[1]
    ratio = statistics.median(rates(int8)) / statistics.median(rates(bf16))
    cell = shown(page, THROUGHPUT, "INT8")[1]["Throughput: ÷ fastest float"]
    assert cell.value == f"{ratio:.2f}×"
    assert cell.detail.endswith("against BF16") and cell.remark == "faster"
    assert shown(page, THROUGHPUT, "BF16")[1]["Throughput: ÷ fastest float"].value == "1"
    assert shown(page, THROUGHPUT, "FP32")[1]["Throughput: ÷ fastest float"].value == ""


def test_a_ratio_of_throughput_is_paired(rows: list[Row]) -> None:
    held = rows[0].throughput[0]
    same = throughput_ratio(held, held)
    assert (same.value, same.low, same.high) == (1, 1, 1)
    with pytest.raises(ValueError, match="cannot be paired"):
        throughput_ratio(held, held.model_copy(update={"rounds": held.rounds[:3]}))


def test_memory_size_and_loading_are_shown(page: Page, rows: list[Row]) -> None:
    (line,) = shown(page, MEMORY, "INT8")[:1]
    row = rows[3]
    assert line["Host memory, MiB: peak"].value == f"{row.peak_memory_mib:.1f}"
    assert line["Host memory, MiB: proportional"].value == "180.2"
    assert line["Device memory, MiB: weights"].value == "11.5"
    assert line["Device memory, MiB: whole process"].value == "", "NVML did not say"
    assert (line["On disk: MiB"].value, line["On disk: MiB"].kind) == ("12.2", "")
    load = line["Until it answers: load, s"]
    assert (load.value, load.kind, load.detail) == ("0.84", "MEASURED", "0.81 to 0.90")
    assert line["Until it answers: build, s"].value == "4.05"
    assert len(page.tables[MEMORY]) == len(rows)


def test_without_a_gpu_there_is_no_column_of_it(rows: list[Row]) -> None:
    table = resources.section(rows[4:7], []).tables[0]
    assert not any("Device" in column.group for column in table.columns)


def test_energy_is_joules_by_calls(page: Page, rows: list[Row]) -> None:
    latency = rows[3].latency
    assert latency is not None
    used = [block.energy_j["package-0"] for block in latency.blocks]
    each = [j / len(times) for j, times in zip(used, latency.rounds_ns, strict=True)]
    found = joules_per_run(latency)
    assert found["package-0"].value == pytest.approx(statistics.median(each))
    (line,) = shown(page, "Energy", "INT8")
    assert line["J per call"].value == f"{statistics.median(each):.4g}"
    assert line["Counter"].value == "package-0"
    silent = [latency.blocks[0].model_copy(update={"energy_j": {}}), *latency.blocks[1:]]
    assert joules_per_run(latency.model_copy(update={"blocks": silent})) == {}


def test_why_there_is_no_energy_is_said(rows: list[Row]) -> None:
    environment = {"energy": {"processor": "no counter", "gpu": "no library"}}
    row = rows[4].model_copy(update={"environment": environment})
    said = [note.text for note in resources.section([row], []).notes]
    assert "No energy: processor: no counter; gpu: no library." in said


def test_the_spread_of_builds_is_shown(page: Page) -> None:
    (line,) = page.tables["Builds of one engine"]
    assert (line["Builds"].value, line["Distinct"].value) == ("3", "2")
    assert line["build, s"].value == "4.10" and line["build, s"].detail == "3.90 to 4.30"
    ratio = line["Latency: slowest ÷ fastest"]
    assert float(ratio.value) == pytest.approx(1.05, abs=0.01)
    assert (ratio.kind, ratio.remark) == ("MEASURED", "builds differ")


@pytest.mark.parametrize("table", [THROUGHPUT, MEMORY, "Energy", "Builds of one engine"])
def test_every_figure_carries_its_kind(page: Page, table: str) -> None:
    facts = {"Configuration", "Batch", "Streams", "Rounds", "Builds", "Distinct", "On disk: MiB"}
    cells = [
        (name, cell)
        for line in page.tables[table]
        for name, cell in line.items()
        if name not in {*facts, "Model", "Engine", "Counter"} and cell.value
    ]
    assert cells and all(cell.kind in list(Kind) for _, cell in cells), cells


def test_json_and_csv_hold_the_same(rows: list[Row]) -> None:
    document = report_document(rows, "t")
    int8 = document.comparisons[0].configurations[-1]
    assert int8.rebuilds is not None and int8.rebuilds.verdict == "builds differ"
    assert int8.load_s == [0.81, 0.9, 0.84] and int8.build_s == 4.05
    assert int8.device_memory == rows[3].device_memory
    lines = list(csv.DictReader(io.StringIO(csv_report(document))))
    assert float(lines[3]["sequences_per_s_batch_8_streams_2"]) == pytest.approx(
        statistics.median(rates(rows[3].throughput[1]))
    )
    first = int8.throughput[0].sequences_per_s
    assert float(lines[3]["sequences_per_s_batch_1_streams_1_low"]) == first.low
    assert float(lines[3]["energy_j_package-0"]) == int8.energy_j["package-0"].value
    assert float(lines[3]["device_weights_mib"]) == 11.5
    assert lines[3]["rebuilds_distinct"] == "2"
    assert [float(lines[3][f"load_s_{n}"]) for n in (1, 2, 3)] == int8.load_s
    assert lines[4]["load_s_1"] == "", "none was recorded"


def test_reports_of_version_1_are_still_read() -> None:
    found = ReportDocument.model_validate_json(OLD.read_text("utf-8"))
    assert found.schema_ == "trueint8/report/1"
    configurations = found.comparisons[0].configurations
    assert [c.configuration for c in configurations] == ["FP32", "INT8"]
    assert configurations[1].size_mib == 12.25 and configurations[1].throughput == []
    assert found.tasks == []


def test_prefill_and_decode_are_told_by_token(written: Write) -> None:
    rows = []
    for name, tokens, median_ms in (("prefill", 15, 6.0), ("decode", 1, 1.5)):
        for row in synthetic_group(40, {"fp32": median_ms}, {}, model=name, bundle_sha256=name):
            assert row.latency is not None
            latency = row.latency.model_copy(update={"batch": 2, "sequence": tokens})
            rows.append(row.model_copy(update={"latency": latency}))
    lines = page_from_html(written(rows)).tables["Prefill and decode"]
    assert [line["Phase"].value for line in lines] == ["prefill", "per-token decode"]
    for line, row, tokens in zip(lines, rows, (15, 1), strict=True):
        assert row.latency is not None
        median_ms = statistics.median(t for times in row.latency.rounds_ns for t in times) / 1e6
        assert float(line["ms: p50 of a call"].value) == pytest.approx(median_ms, abs=0.006)
        assert float(line["ms: p50 ÷ tokens"].value) == pytest.approx(median_ms / tokens, abs=6e-3)
        assert float(line["tokens/s"].value) == pytest.approx(2e3 * tokens / median_ms, abs=0.06)


def test_other_models_have_no_such_section(rows: list[Row]) -> None:
    assert generation.section(rows, summarize(rows)) is None
