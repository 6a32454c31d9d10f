"""``deploy load`` on real servers, and its section of the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.bundle import Bundle
from deploy.loading.rows import read_load
from deploy.profiling.results import write_results
from deploy.reporting.load_section import load_section
from tests.deploy.loading.servers import load_row
from tests.deploy.running import run_here
from tests.deploy.serving.conftest import Server, serving
from tests.reporting.synthetic import synthetic_latency, synthetic_row
from trueint8.artifacts import sha256_file

QUICK = ("--rounds", 3, "--round-s", 0.2, "--rate", 150, "--growth", 2, "--quiet")


@pytest.fixture(scope="module")
def sides(classifier: Bundle) -> Iterator[tuple[Server, Server]]:
    """Float and INT8 of one bundle, behind the same program."""
    flags = ("--name", "m", "--engine", "onnxruntime", "--batch-delay-ms", 2)
    with (
        serving(classifier.path, "--graph", "float", *flags) as floating,
        serving(classifier.path, *flags) as int8,
    ):
        yield floating, int8


def test_float_and_int8_are_loaded_in_turn_and_reported(
    sides: tuple[Server, Server], classifier: Bundle, tmp_path: Path
) -> None:
    results, out = tmp_path / "results.jsonl", tmp_path / "load.jsonl"
    manifest = sha256_file(classifier.path / "manifest.json")
    common = {"bundle_sha256": manifest, "engine": "onnxruntime", "rest": "fp32"}
    slow, fast = (synthetic_latency(ms, seed=1) for ms in (3.0, 2.0))
    rows = [
        synthetic_row(graph="float", precision="fp32", latency=slow, **common),
        synthetic_row(graph="qdq", precision="int8", latency=fast, **common),
    ]
    write_results(results, rows)
    urls = [f"127.0.0.1:{server.port}" for server in sides]
    flags = (*QUICK, "--most-rate", 300, "--p99-ms", 5000, "--results", results, "--json")
    ended = run_here("load", *urls, "-o", out, *flags)
    assert ended.code == 0, ended.err
    servers = ended.json["servers"]
    assert [s["label"].split()[-1] for s in servers] == ["FP32", "INT8"]
    for server in servers:
        assert (server["held_per_s"], server["broke_per_s"]) == (300, None)
        for rate in server["rates"]:
            assert rate["kind"] == "MEASURED" and list(rate["statuses"]) == ["200"]
            assert rate["p50_ms"]["low"] <= rate["p50_ms"]["value"] <= rate["p99_ms"]["value"]
            assert 1 <= rate["server"]["mean_batch"] <= 8
            assert rate["server"]["queue_ms"] > 0 and rate["server"]["compute_ms"] > 0
    (pair,) = ended.json["comparisons"]
    assert [rate for rate, _ in pair["latencies"]] == [150, 300]
    assert pair["capacity"] == [None, None], "neither broke: nothing is known of it"
    assert pair["offline"]["value"] == pytest.approx(1.5, rel=1e-3)
    found = read_load(out)
    assert len(found) == 4 and len({row.session for row in found}) == 1
    assert {row.about["bundle_sha256"] for row in found} == {manifest}
    page = tmp_path / "report.html"
    assert run_here("report", results, "--load", out, "-o", page).code == 0
    text = page.read_text("utf-8")
    for words in ("Under load", "Latency over throughput", "Served and offline speed-up"):
        assert words in text
    refused = run_here("report", results, "--load", out, "--format", "md", "-o", tmp_path / "r.md")
    refused.refused(2, "--load has no place in a md report")


def test_rates_rise_until_the_objective_breaks(
    sides: tuple[Server, Server], tmp_path: Path
) -> None:
    """No answer comes within a microsecond, so the first rate breaks it and the test ends."""
    out = tmp_path / "load.jsonl"
    url = f"http://127.0.0.1:{sides[1].port}/"
    ended = run_here("load", url, "-o", out, *QUICK, "--p99-ms", 0.001, "--json")
    assert ended.code == 0, ended.err
    (found,) = ended.json["servers"]
    assert (found["held_per_s"], found["broke_per_s"]) == (None, 150)
    assert len(read_load(out)) == 1
    run_here("load", url, "-o", out, *QUICK).refused(2, "exists", "--force")


def test_texts_of_a_file_and_a_token(classifier: Bundle, tmp_path: Path) -> None:
    texts, token = tmp_path / "texts.txt", tmp_path / "token"
    texts.write_text("a b\n\na b c d\n", "utf-8")
    token.write_text("s3cret\n", "utf-8")
    with serving(classifier.path, "--name", "m", "--token-file", token) as server:
        url = f"http://127.0.0.1:{server.port}"
        flags = ("--model", "m-text", "--data", texts, *QUICK, "--most-rate", 150)
        run_here("load", url, "-o", tmp_path / "a", *flags).refused(8, "401", "--token-file")
        out = tmp_path / "load.jsonl"
        ended = run_here(
            "load", url, "-o", out, *flags, "--p99-ms", 5000, "--token-file", token, "--json"
        )
        assert ended.code == 0, ended.err
        (row,) = read_load(out)
        assert row.model == "m-text" and row.answered == row.sent
        assert "s3cret" not in out.read_text("utf-8")


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (lambda url: (), 2, "no URL"),
        (lambda url: ("http://127.0.0.1:1",), 8, "does not answer"),
        (lambda url: ("ftp://a",), 2, "no URL of a server"),
        (lambda url: (f"{url}/v2/models",), 2, "no URL of a server or of one of its models"),
        (lambda url: (f"{url}/v2/models/other",), 8, "there is no model"),
        (lambda url: (url, f"{url}/v2/models/m"), 2, "'m' of http://127.0.0.1:"),
        (lambda url: (url, "--repo", "none"), 9, "no package.json"),
        (lambda url: (url, "--model", "other"), 8, "there is no model"),
        (lambda url: (url, "--seq-len", 99), 8, "has shape [1, 99]"),
        (lambda url: (url, "--rows", 9), 8, "has shape [9, 32]"),
        (lambda url: (url, "--rounds", 2), 2, "rounds is 2"),
        (lambda url: (url, "--growth", 1), 2, "growth is 1"),
        (lambda url: (url, "--metrics-url", url, "--metrics-url", url), 2, "2 --metrics-url"),
        (lambda url: (url, "--data", "none.txt"), 10, "no input file"),
        (lambda url: (url, "--results", "none.jsonl"), 10, "no results file"),
    ],
)
def test_what_cannot_be_loaded_is_refused(
    sides: tuple[Server, Server],
    tmp_path: Path,
    line: Callable[[str], tuple[object, ...]],
    code: int,
    words: str,
) -> None:
    arguments = line(f"http://127.0.0.1:{sides[1].port}")
    run_here("load", *arguments, "--quiet", cwd=tmp_path).refused(code, words)
    assert not (tmp_path / "load.jsonl").exists()


def test_the_chart_is_valid_and_repeats_the_table() -> None:
    altair = pytest.importorskip("altair")
    about = {"bundle": "b", "bundle_sha256": "x", "engine": "openvino", "rest": "fp32"}
    rows = [
        load_row(rate, rate / ratio, url=graph, about=about | {"graph": graph}, lag_p99_ms=9)
        for rate in (40, 80, 160)
        for graph, ratio in (("float", 1), ("int8", 2))
    ]
    section = load_section(rows, [])
    (chart,) = section.charts
    altair.LayerChart.from_dict(chart.spec)
    values = json.dumps(chart.spec)
    assert all(f"{p:.4g} ms" in values for p in (40, 80, 160, 20))
    table, pairs = section.tables
    assert len(table.rows) == 6
    assert pairs.rows[0][2].text.startswith("between 1.00 and ")
    assert len(section.warnings) == 5, "all but the slowest: 9 ms is not a tenth of 160 ms"
