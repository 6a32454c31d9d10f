"""Rows to what a server sustains, and to speed-ups; the counters of servers; perf_analyzer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.loading import perf_analyzer
from deploy.loading.counters import between, counters_from_text
from deploy.loading.endpoint import Endpoint
from deploy.loading.figures import lag_matters, percentiles_of, served_speed_ups, sustained
from deploy.loading.payloads import Asked, payloads_for
from deploy.loading.rows import LoadRow, read_load, write_load
from deploy.loading.telling import plain_figures, row_line, summary_lines
from deploy.profiling.results import Row
from tests.deploy.loading.servers import load_row
from tests.reporting.synthetic import synthetic_latency, synthetic_row
from trueint8.errors import DataError, RunError

A: dict[str, Any] = {
    "url": "http://a",
    "about": {
        "bundle": "b", "bundle_sha256": "b" * 64, "engine": "openvino", "graph": "float",
        "rest": "fp32",
    },
}  # fmt: skip
B: dict[str, Any] = {"url": "http://b", "about": A["about"] | {"graph": "int8"}}


def test_a_server_sustains_what_is_below_the_first_rate_that_breaks() -> None:
    rows = [load_row(r, p, **A) for r, p in ((10, 5), (20, 49), (40, 51), (80, 20))]
    (found,) = sustained(rows)
    assert (found.held_per_s, found.broke_per_s) == (20, 40)
    (found,) = sustained([load_row(10, 51, **A)])
    assert (found.held_per_s, found.broke_per_s) == (None, 10)
    (found,) = sustained([load_row(10, 5, **A)])
    assert (found.held_per_s, found.broke_per_s) == (10, None)


def test_unanswered_requests_break_the_percentile() -> None:
    rounds = [[1_000_000] * 98 + [1_000_000_000] * 2] * 5
    lost = load_row(10, 1, rounds_ns=rounds, statuses={"200": 490, "429": 10})
    (found,) = sustained([lost])
    assert found.held_per_s is None
    assert "10 of 500 unanswered" in row_line(lost)


def test_percentiles_have_intervals_or_say_nothing() -> None:
    draw = np.random.default_rng(0).exponential(10e6, (5, 200)).astype(int).tolist()
    found = percentiles_of(load_row(10, 1, rounds_ns=draw))
    for percent, estimate in found.items():
        assert estimate is not None and estimate.low <= estimate.value <= estimate.high
        assert estimate.value == pytest.approx(np.percentile(np.ravel(draw), percent) / 1e6)
    assert percentiles_of(load_row(10, 1, rounds_ns=[[1] * 20] * 5))[99] is None


def test_served_and_offline_speed_up() -> None:
    rows = [load_row(10, 8, **A), load_row(10, 4, **B), load_row(20, 60, **A)]
    rows += [load_row(20, 6, **B), load_row(40, 70, **B)]
    float_row, int8_row = _results()
    (found,) = served_speed_ups(rows, [float_row, int8_row])
    assert [(rate, ratio.value) for rate, ratio in found.latencies] == [(10, 2.0), (20, 10.0)]
    assert found.capacity == (20 / 20, 40 / 10)
    assert found.offline is not None and found.offline.value == pytest.approx(1.5)
    (without,) = served_speed_ups(rows, [float_row])
    assert without.offline is None
    told = "\n".join(summary_lines(rows, [float_row]))
    assert "hold no latency of both" in told and "--repo" in told
    assert "--repo" not in "\n".join(summary_lines(rows, []))
    lines = "\n".join(summary_lines(rows, [float_row, int8_row]))
    assert "b openvino INT8 against b openvino FP32: sustained rate between 1.00 and 4.00" in lines
    assert "offline 1.50" in lines and "share this machine" in lines
    (plain,) = plain_figures(rows, [])["comparisons"]
    assert plain["kind"] == "MEASURED" and plain["offline"] is None


def _results() -> tuple[Row, Row]:
    common = {"bundle_sha256": "b" * 64, "engine": "openvino", "rest": "fp32"}
    times = [synthetic_latency(ms, seed=1) for ms in (3.0, 2.0)]
    return (
        synthetic_row(graph="float", precision="fp32", latency=times[0], **common),
        synthetic_row(graph="qdq", precision="int8", latency=times[1], **common),
    )


def test_a_late_client_is_told_of() -> None:
    assert not lag_matters(load_row(10, 40, lag_p99_ms=3.0))
    assert lag_matters(load_row(10, 40, lag_p99_ms=5.0))


TRITON = """# HELP nv_inference_request_success Number of successful inference requests
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="m",version="1"} 2006
nv_inference_request_success{model="other",version="1"} 5
# TYPE nv_inference_count counter
nv_inference_count{model="m",version="1"} 2006
# TYPE nv_inference_exec_count counter
nv_inference_exec_count{model="m",version="1"} 1019
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{model="m",version="1"} 2006000
# TYPE nv_inference_compute_infer_duration_us counter
nv_inference_compute_infer_duration_us{model="m",version="1"} 4012000
"""


def test_tritons_counters() -> None:
    zero = counters_from_text(TRITON.replace("2006", "0").replace("1019", "0"), "m")
    found = between(zero, counters_from_text(TRITON, "m"))
    assert found.mean_batch == pytest.approx(2006 / 1019)
    assert found.queue_ms is not None and found.compute_ms is not None
    assert between(zero, zero).mean_batch is None
    assert between(None, counters_from_text(TRITON, "m")).mean_batch is None
    assert counters_from_text("# TYPE x counter\nx_total 1\n", "m") is None
    assert counters_from_text("<html>", "m") is None


def test_a_file_of_rows_is_read_as_written_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "load.jsonl"
    rows = [load_row(10, 8, **A), load_row(20, 8, **B)]
    write_load(path, rows)
    assert read_load(path) == rows
    path.write_text(path.read_text("utf-8") + '{"schema": "trueint8/load/1"}\n', "utf-8")
    with pytest.raises(DataError, match="line 3 is not"):
        read_load(path)
    with pytest.raises(DataError, match="no load results"):
        read_load(tmp_path / "none")


METADATA = [
    {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]},
    {"name": "attention_mask", "datatype": "INT32", "shape": [-1, -1]},
]
TEXT = [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]


def test_requests_are_drawn_for_what_the_server_says_it_takes() -> None:
    drawn = payloads_for(METADATA, Asked(None, 3, 7, 0))
    assert len({payload.body for payload in drawn}) == len(drawn)
    for payload in drawn:
        assert payload.arrays["input_ids"].shape == (3, 7)
        assert payload.arrays["attention_mask"].dtype == np.int32
        assert (payload.arrays["attention_mask"] == 1).all()
    (text, *_) = payloads_for(TEXT, Asked(None, 2, 8, 0))
    assert text.arrays["text"].shape == (2, 1)


def test_lines_become_requests_or_are_named(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    row = {"input_ids": [5, 6], "attention_mask": [1, 1]}
    path.write_text(f"{json.dumps(row)}\n\n{json.dumps({'text': 'a'})}\n", "utf-8")
    with pytest.raises(DataError, match="line 3 does not fit the model's inputs, input_ids"):
        payloads_for(METADATA, Asked(path, 1, 1, 0))
    with pytest.raises(DataError, match="line 1 does not fit the model's inputs, text"):
        payloads_for(TEXT, Asked(path, 1, 1, 0))
    path.write_text(json.dumps(row), "utf-8")
    (payload,) = payloads_for(METADATA, Asked(path, 1, 1, 0))
    assert payload.arrays["input_ids"].tolist() == [[5, 6]]


STAND_IN = """#!{python}
import json, sys
line = sys.argv[1:]
given = dict(zip(line, line[1:]))
data = json.load(open(given["--input-data"]))["data"]
json.dump({{"line": line, "data": data}}, open({kept!r}, "w"))
open(given["-f"], "w").write(
    "Request Rate,Inferences/Second,p50 latency,p90 latency,p95 latency,p99 latency\\n"
    "20,19.5,1000,2000,3000,4000\\n"
)
"""


@pytest.mark.parametrize("batched", [False, True])
def test_perf_analyzer_is_given_our_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batched: bool
) -> None:
    """A stand-in checks the command line; the program itself is not run here."""
    kept = tmp_path / "kept.json"
    program = tmp_path / "perf_analyzer"
    program.write_text(STAND_IN.format(python=sys.executable, kept=str(kept)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert perf_analyzer.installed() == str(program)
    endpoint = Endpoint("http://host:8000", "m", METADATA, {}, "", {"Authorization": "Bearer t"})
    payloads = payloads_for(METADATA, Asked(None, 2, 3, 0))
    config = {"max_batch_size": 8 if batched else 0}
    found = perf_analyzer.second_opinion(endpoint, payloads, 20.0, config)
    assert found["p99_us"] == 4000 and found["inferences_per_s"] == 19.5
    told = json.loads(kept.read_text())
    line = " ".join(told["line"])
    assert "-m m -u host:8000 -i http" in line and "--request-rate-range=20" in line
    assert "--request-distribution poisson" in line and "-H Authorization: Bearer t" in line
    assert ("-b 2" in line) == batched
    first = told["data"][0]["input_ids"]
    whole = payloads[0].arrays["input_ids"]
    assert first["shape"] == ([3] if batched else [2, 3])
    assert first["content"] == (whole[0] if batched else whole).reshape(-1).tolist()
    program.write_text("#!/bin/sh\necho it broke >&2\nexit 1\n")
    with pytest.raises(RunError, match="perf_analyzer failed: it broke"):
        perf_analyzer.second_opinion(endpoint, payloads, 20.0, config)


def test_other_files_of_perf_analyzer_are_refused() -> None:
    with pytest.raises(RunError, match="its CSV file has no"):
        perf_analyzer.read_csv("Concurrency,p99 latency\n1,2\n")


def test_the_second_opinion_stands_beside_ours() -> None:
    row = load_row(10, 8, **A, perf_analyzer={"p50_us": 2500.0, "p99_us": 7250.0})
    (_, line, *_) = summary_lines([row], [])
    assert "perf_analyzer at 10/s: p50 2.5 ms, p99 7.25 ms" in line and "[MEASURED]" in line


def test_a_row_says_what_is_served() -> None:
    assert load_row(10, 1, **A).label == "b openvino FP32"
    assert load_row(10, 1, **B).label == "b openvino INT8"
    other: LoadRow = load_row(10, 1)
    assert other.label == "m at http://a"
