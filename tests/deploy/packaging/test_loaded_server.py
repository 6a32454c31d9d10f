"""``deploy load`` on the genuine tritonserver: float and INT8 behind the same program."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.bundle import Bundle
from deploy.loading.rows import read_load
from deploy.profiling.results import write_results
from tests.deploy.packaging.tritonserver import Server, environment, perf_analyzer
from tests.deploy.running import run_here
from tests.reporting.synthetic import synthetic_latency, synthetic_row

pytestmark = [
    pytest.mark.triton,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

QUICK = ("--rounds", 3, "--round-s", 0.5, "--seq-len", 16, "--quiet", "--json")


def _model(server: Server, name: str) -> str:
    return f"{server.urls[0]}/v2/models/{name}"


def _metrics(server: Server) -> tuple[str, str]:
    return ("--metrics-url", f"http://127.0.0.1:{server.metrics}/metrics")


def test_float_and_int8_of_one_server_are_compared(
    server: Server, repository: Path, encoder: Bundle, tmp_path: Path
) -> None:
    """The offline figures are drawn here: what is tested is that they are found."""
    results, out = tmp_path / "results.jsonl", tmp_path / "load.jsonl"
    common = {"bundle_sha256": encoder.sha256, "engine": "onnxruntime", "rest": "fp32"}
    slow, fast = (synthetic_latency(ms, seed=1) for ms in (3.0, 2.0))
    rows = [
        synthetic_row(graph="float", precision="fp32", latency=slow, **common),
        synthetic_row(graph="qdq", precision="int8", latency=fast, **common),
    ]
    write_results(results, rows)
    urls = [_model(server, name) for name in ("float", "int8")]
    rates = ("--rate", 100, "--growth", 3, "--most-rate", 300, "--p99-ms", 5000)
    ended = run_here(
        "load", *urls, *_metrics(server), "--repo", repository, "--results", results,
        *rates, *QUICK, "-o", out,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    labels = ["float onnxruntime FP32", "int8 onnxruntime INT8"]
    assert [s["label"] for s in ended.json["servers"]] == labels
    for one in ended.json["servers"]:
        assert (one["held_per_s"], one["broke_per_s"]) == (300, None)
        for rate in one["rates"]:
            assert rate["kind"] == "MEASURED" and list(rate["statuses"]) == ["200"]
            assert rate["p50_ms"]["low"] <= rate["p50_ms"]["value"] <= rate["p99_ms"]["value"]
            assert 1 <= rate["server"]["mean_batch"] <= 8
            assert rate["server"]["queue_ms"] > 0 and rate["server"]["compute_ms"] > 0
    quick, slowed = (s["rates"][0]["server"] for s in ended.json["servers"])
    assert slowed["mean_batch"] > quick["mean_batch"], "int8 waits 20 ms for a batch, float not"
    assert slowed["queue_ms"] > quick["queue_ms"]
    (pair,) = ended.json["comparisons"]
    assert [rate for rate, _ in pair["latencies"]] == [100, 300]
    assert pair["offline"]["value"] == pytest.approx(1.5, rel=1e-3)
    found = read_load(out)
    assert [(row.url, row.model) for row in found[:2]] == [
        (server.urls[0], "float"), (server.urls[0], "int8"),
    ]  # fmt: skip
    assert {row.about["bundle_sha256"] for row in found} == {encoder.sha256}
    page = tmp_path / "report.html"
    assert run_here("report", results, "--load", out, "-o", page).code == 0
    assert "Served and offline speed-up" in page.read_text("utf-8")


def test_what_a_model_holds_is_between_two_rates(server: Server, tmp_path: Path) -> None:
    """The model waits 20 ms for a batch, so 1 ms breaks at once and 2 s never does."""
    url, rate = _model(server, "int8"), ("--rate", 150, "--most-rate", 150)
    brackets = {1: (None, 150), 2000: (150, None)}
    for objective, (held, broke) in brackets.items():
        words = (url, *_metrics(server), *rate, *QUICK, "--p99-ms", objective)
        ended = run_here("load", *words, "-o", tmp_path / f"{objective}.jsonl")
        assert ended.code == 0, ended.err
        (found,) = ended.json["servers"]
        assert (found["held_per_s"], found["broke_per_s"]) == (held, broke)


def test_what_the_server_does_not_tell_is_told_of(server: Server, tmp_path: Path) -> None:
    words = ("--rate", 150, "--most-rate", 150, "--p99-ms", 2000, *QUICK[:-2])
    ended = run_here("load", _model(server, "int8"), *words, "-o", tmp_path / "a.jsonl")
    assert ended.code == 0 and "--metrics-url" in ended.err
    (row,) = read_load(tmp_path / "a.jsonl")
    assert row.server.mean_batch is None and row.about == {}
    assert row.label == f"int8 at {server.urls[0]}"


def test_perf_analyzer_measures_the_same_server(
    server: Server,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The program itself: both clients see that a request waits 20 ms for a batch."""
    cache = Path(request.config.cache.mkdir("tritonserver"))
    monkeypatch.setenv("PATH", str(perf_analyzer(environment(cache), cache)), prepend=":")
    out = tmp_path / "load.jsonl"
    rates = ("--rate", 100, "--most-rate", 100, "--p99-ms", 2000)
    ended = run_here("load", _model(server, "int8"), *_metrics(server), *rates, *QUICK, "-o", out)
    assert ended.code == 0, ended.err
    (row,) = read_load(out)
    other = row.perf_analyzer
    assert other is not None, ended.err
    assert other["rate_per_s"] == 100 and 50 < other["inferences_per_s"] < 150
    ours = ended.json["servers"][0]["rates"][0]["p50_ms"]["value"]
    assert min(ours, other["p50_us"] / 1e3) > 10
    assert other["p50_us"] <= other["p90_us"] <= other["p95_us"] <= other["p99_us"]
