"""``deploy profile`` and ``deploy report``: rows, kinds, accuracy, and figures redone by hand."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import deploy
from calib.data import load_samples
from calib.inputs import Request
from deploy.bundle import Bundle
from deploy.profiling.evaluation import EvaluationSet, evaluation_set
from deploy.profiling.results import Row, read_results
from export.checkpoint import quiet_transformers
from tests.deploy.checkpoints import CLASS_NAMES, LAYERS, prose, write_arrays
from tests.deploy.conftest import SEQUENCE
from tests.deploy.running import run_here
from tests.reporting.reading import Page, Seen, page_from_html

Built = Callable[[str], Bundle]
Checkpoint = Callable[[str], Path]

SHORT = ("--rounds", 3, "--round-ms", 20, "--samples", 8)
QUICK: dict[str, Any] = {"rounds": 3, "round_ms": 1.0, "samples": 8, "engines": ["onnxruntime"]}


@pytest.fixture(scope="module")
def results(built: Built, evaluation: Path, made: Path) -> Path:
    """Results of the masked-LM BERT on every engine."""
    out = made / "results.jsonl"
    ended = run_here("profile", built("bert").path, "--data", evaluation, *SHORT, "-o", out)
    assert ended.code == 0, ended.err
    assert "rows; next: deploy report" in ended.out
    assert "calibration data" not in ended.out
    return out


@pytest.fixture(scope="module")
def lines(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()]


@pytest.fixture(scope="module")
def page(results: Path, made: Path) -> Page:
    ended = run_here("report", results, "-o", made / "report.html")
    assert ended.code == 0, ended.err
    return page_from_html((made / "report.html").read_text("utf-8"))


def test_every_configuration_is_a_row_of_its_kind(lines: list[dict[str, Any]]) -> None:
    found = Counter((r["engine"], r["graph"], r["precision"], r["kind"]) for r in lines)
    assert set(found.values()) == {1}
    assert {k for k in found if k[0] == "onnxruntime"} == {
        ("onnxruntime", "float", "fp32", "MEASURED"),
        ("onnxruntime", "qdq", "fp32", "SIMULATED"),
        ("onnxruntime", "qdq", "int8", "MEASURED"),
    }
    assert {k for k in found if k[0] == "openvino"} >= {
        ("openvino", "float", "fp32", "MEASURED"),
        ("openvino", "qdq", "fp32", "SIMULATED"),
        ("openvino", "qdq", "int8", "MEASURED"),
    }
    assert {k for k in found if k[0] == "tensorrt-rtx"} == {
        ("tensorrt-rtx", "qdq", "int8", "BUILT")
    }


def test_a_built_engine_has_coverage_and_no_figure_that_needs_running(
    lines: list[dict[str, Any]],
) -> None:
    (row,) = (r for r in lines if r["kind"] == "BUILT")
    assert "latency" not in row
    assert row["accuracy"] == []
    assert "peak_memory_mib" not in row
    assert row["coverage"]["int8_matmuls"] == 12
    assert row["attentions"] == LAYERS
    assert row["fused_attentions"] == 0, "its heads are 8 wide, narrower than the engine fuses"


def test_results_are_versioned_raw_and_readable(results: Path, lines: list[dict[str, Any]]) -> None:
    assert {r["schema"] for r in lines} == {"trueint8/results/2"}
    assert len({r["session"] for r in lines}) == 1
    assert [row.engine for row in read_results(results)] == [r["engine"] for r in lines]
    for row in lines:
        if "latency" in row:
            rounds = row["latency"]["rounds_ns"]
            assert len(rounds) == 3
            assert all(len(r) == len(rounds[0]) >= 3 and min(r) > 0 for r in rounds)
            assert len(row["latency"]["warmup_ns"]) >= 5
            assert len(row["latency"]["blocks"]) == 3
            assert all(0 <= b["others"] <= 1 for b in row["latency"]["blocks"])
            assert 0 < row["pss_mib"] <= row["peak_memory_mib"]
            assert (row["latency"]["batch"], row["latency"]["sequence"]) == (8, SEQUENCE)


def test_threads_and_environment_are_equal_for_all(lines: list[dict[str, Any]]) -> None:
    assert len({r["latency"]["threads"] for r in lines if "latency" in r}) == 1
    assert len({json.dumps(r["environment"], sort_keys=True) for r in lines}) == 1
    assert lines[0]["environment"]["threads"] == lines[0]["latency"]["threads"]


def test_the_simulation_has_the_accuracy_of_the_integer_engine(
    lines: list[dict[str, Any]],
) -> None:
    """The same quantized values, rounded the same way: losses agree far below their size."""
    rows = {(r["engine"], r["graph"], r["precision"]): r for r in lines if r["accuracy"]}
    simulated = _loss(rows["onnxruntime", "qdq", "fp32"])
    assert _loss(rows["onnxruntime", "qdq", "int8"]) == pytest.approx(simulated, rel=2e-3)
    assert _loss(rows["openvino", "qdq", "fp32"]) == pytest.approx(simulated, rel=2e-3)
    assert simulated != _loss(rows["onnxruntime", "float", "fp32"])


def _loss(row: dict[str, Any]) -> float:
    return float(next(a["value"] for a in row["accuracy"] if a["metric"] == "loss"))


def _figures(built: Built, family: str, data: Path) -> list[Row]:
    return deploy.profile([built(family).path], data=data, **QUICK)


def _evaluated(bundle: Bundle, data: Path) -> EvaluationSet:
    """Return the very batches a profile with 8 samples of batch 8 evaluates."""
    samples = load_samples(
        data, Request(8, 8, SEQUENCE, 0), bundle.manifest.graph_inputs(),
        task=bundle.manifest.model.task, tokenizer=bundle.tokenizer,
    )  # fmt: skip
    return evaluation_set(samples, bundle.manifest.model.task, bundle.tokenizer, 0)


def _torch_loss(model: Any, data: EvaluationSet) -> tuple[float, int]:
    total, count = 0.0, 0
    for batch, targets in zip(data.batches, data.targets, strict=True):
        with torch.no_grad():
            logits = model(**{k: torch.from_numpy(v) for k, v in batch.items()}).logits.double()
        wanted = torch.from_numpy(targets)
        total += float(
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum"
            )
        )
        count += int((wanted != -100).sum())
    return total / count, count


def test_masked_lm_perplexity_is_torchs(
    lines: list[dict[str, Any]], built: Built, checkpoint: Checkpoint, evaluation: Path
) -> None:
    with quiet_transformers():
        model = transformers.BertForMaskedLM.from_pretrained(checkpoint("bert")).eval()
    data = _evaluated(built("bert"), evaluation)
    loss, count = _torch_loss(model, data)
    assert any((b["input_ids"] == 4).any() for b in data.batches), "nothing was masked"
    for engine in ("onnxruntime", "openvino"):
        (row,) = (
            r for r in lines if r["engine"] == engine and r["graph"] == "float"
            and r["precision"] == "fp32"
        )  # fmt: skip
        headline = row["accuracy"][0]
        assert headline["metric"] == "perplexity"
        assert headline["value"] == pytest.approx(np.exp(loss), rel=1e-4)
        assert headline["low"] < headline["value"] < headline["high"]
        assert (headline["samples"], headline["positions"]) == (8, count)


@pytest.mark.parametrize("family", ["gpt2"])
def test_causal_lm_perplexity_is_torchs(
    family: str, built: Built, checkpoint: Checkpoint, evaluation: Path
) -> None:
    rows = _figures(built, family, evaluation)
    with quiet_transformers():
        model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint(family)).eval()
    data = _evaluated(built(family), evaluation)
    loss, count = _torch_loss(model, data)
    assert rows[0].accuracy[0].metric == "perplexity"
    assert rows[0].accuracy[0].value == pytest.approx(np.exp(loss), rel=1e-4)
    assert rows[0].accuracy[0].positions == count == 8 * (SEQUENCE - 1)
    # and transformers' own loss over next tokens is the same
    (batch,) = data.batches
    with torch.no_grad():
        tensors = {k: torch.from_numpy(v) for k, v in batch.items()}
        own = float(model(**tensors, labels=tensors["input_ids"]).loss)
    assert rows[0].accuracy[1].value == pytest.approx(own, rel=1e-4)


def test_classification_accuracy_with_names_and_with_ids(
    built: Built, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    texts = prose(8, 11)
    labels = [i % 3 for i in range(8)]
    names = {i: n for n, i in CLASS_NAMES.items()}
    with quiet_transformers():
        folder = checkpoint("bert-classes")
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = tokenizer(
        texts, truncation=True, max_length=SEQUENCE, padding=True, return_tensors="pt",
        return_token_type_ids=False,
    )  # fmt: skip
    with torch.no_grad():
        expected = (model(**given).logits.argmax(-1).numpy() == labels).mean()
    data = tmp_path / "labels.jsonl"
    rows = [
        {"text": text, "label": names[label] if i < 4 else label}
        for i, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    data.write_text("\n".join(map(json.dumps, rows)))
    found = _figures(built, "bert-classes", data)
    assert 0 < expected < 1, "a constant answer would pass by chance"
    assert found[0].accuracy[0].metric == "accuracy"
    assert found[0].accuracy[0].value == pytest.approx(expected)
    assert found[0].accuracy[0].positions == 8
    low, high = found[0].accuracy[0].low, found[0].accuracy[0].high
    assert low is not None and high is not None and low < expected < high


@pytest.mark.parametrize("label", ["delighted", 3, -1])
def test_a_label_the_model_does_not_have_is_refused(
    built: Built, tmp_path: Path, label: object
) -> None:
    data = tmp_path / "eval.jsonl"
    data.write_text(json.dumps({"text": "a text", "label": label}))
    ended = run_here("profile", built("bert-classes").path, "--data", data, cwd=tmp_path)
    ended.refused(10, str(label), "negative")


def test_the_float_model_is_its_own_reference_for_cosine(built: Built, evaluation: Path) -> None:
    floating, simulated, int8 = _figures(built, "bert-bare", evaluation)
    assert floating.accuracy[0].metric == "cosine"
    assert floating.accuracy[0].value == pytest.approx(1.0, abs=1e-9)
    assert 0.98 < simulated.accuracy[0].value < 1.0
    assert 0.98 < int8.accuracy[0].value < 1.0


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ((), 2, ("needs evaluation data", "--data")),
        (("--data", "none.txt"), 10, ("no data at none.txt",)),
        (("--data", "{data}", "--rounds", 2), 2, ("2 rounds", "--rounds 3")),
        (("--data", "{data}", "--batch-size", 0), 2, ("--batch-size is 0",)),
        (("--data", "{data}", "--samples", 0), 2, ("--samples is 0",)),
        (("--data", "{data}", "--threads", 0), 2, ("--threads is 0",)),
        (("--data", "{data}", "--seed", -1), 2, ("--seed is -1",)),
        (("--data", "{data}", "--engine", "onnxrt"), 3, ("'onnxrt'", "onnxruntime")),
        (("--data", "{data}", "--engine", "tensorrt-rtx"), 3, ("tensorrt-rtx", "openvino")),
        (("--data", "{bad}"), 10, ("9999", "vocabulary")),
    ],
)
def test_profiles_that_cannot_be_measured(
    bundle: Bundle, tmp_path: Path, flags: tuple[object, ...], code: int, words: tuple[str, ...]
) -> None:
    data = write_arrays(tmp_path / "eval.npz", rows=8, length=8)
    bad = write_arrays(tmp_path / "bad.npz", rows=8, length=8, input_ids=np.full((8, 8), 9999))
    line = [str(f).format(data=data, bad=bad) for f in flags]
    run_here("profile", bundle.path, *line, cwd=tmp_path).refused(code, *words)
    assert not (tmp_path / "results.jsonl").exists()


def test_no_bundle_and_a_tampered_one_are_refused_before_anything_runs(
    bundle: Bundle, bundle_copy: Path, tmp_path: Path
) -> None:
    data = write_arrays(tmp_path / "eval.npz", rows=8, length=8)
    run_here("profile", "--data", data, cwd=tmp_path).refused(2, "no bundle")
    (bundle_copy / "engine" / "openvino" / "model.bin").write_bytes(b"x")
    ended = run_here("profile", bundle.path, bundle_copy, "--data", data, cwd=tmp_path)
    ended.refused(9, "model.bin was changed")
    assert "load" not in ended.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ("no results file",)),
        ("", ("holds no rows",)),
        ("{}\n", ("line 1", "trueint8/results/2")),
        ("not json\n", ("line 1",)),
    ],
)
def test_a_report_of_no_results(tmp_path: Path, text: str | None, words: tuple[str, ...]) -> None:
    if text is not None:
        (tmp_path / "results.jsonl").write_text(text)
    run_here("report", cwd=tmp_path).refused(10, *words, "deploy profile")
    assert not (tmp_path / "report.html").exists()


def test_a_report_of_a_later_schema_is_refused(results: Path, tmp_path: Path) -> None:
    later = tmp_path / "results.jsonl"
    later.write_text(results.read_text().replace("results/2", "results/3"))
    run_here("report", later, "-o", tmp_path / "r.html").refused(10, "line 1")


# The report's figures, computed here from the raw samples alone.


def _number(cell: Seen) -> tuple[float, float]:
    """Return the last number of a cell and half a unit of its last decimal."""
    text = re.findall(r"\d+(?:\.\d+)?", cell.value)[-1]
    return float(text), 0.5 * 10.0 ** -len(text.partition(".")[2]) + 1e-9


def _shows(cell: Seen, expected: float) -> bool:
    value, half = _number(cell)
    return abs(value - expected) <= half


def _p50_ms(row: dict[str, Any]) -> float:
    pooled = sorted(t for one in row["latency"]["rounds_ns"] for t in one)
    middle = len(pooled) // 2
    both: float = pooled[middle] if len(pooled) % 2 else (pooled[middle - 1] + pooled[middle]) / 2
    return float(both) / 1e6


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_overview_is_what_the_raw_samples_say(
    page: Page, lines: list[dict[str, Any]], engine: str
) -> None:
    mine = [r for r in lines if r["engine"] == engine]
    floats = [r for r in mine if r["graph"] == "float"]
    (single,) = (r for r in floats if r["precision"] == "fp32")
    (simulated,) = (r for r in mine if r["kind"] == "SIMULATED")
    (int8,) = (r for r in mine if r["precision"] == "int8")
    fastest = min(floats, key=_p50_ms)
    table = page.tables["Float, simulated and measured"]
    (shown,) = (line for line in table if line["Engine"].value == engine)

    assert shown["Latency, p50: fastest float"].value.startswith(fastest["precision"].upper())
    assert _shows(shown["Latency, p50: fastest float"], _p50_ms(fastest))
    assert _shows(shown["Latency, p50: INT8"], _p50_ms(int8))
    assert _shows(shown["Speed-up: measured"], _p50_ms(fastest) / _p50_ms(int8))
    assert _shows(shown["Speed-up: simulated"], _p50_ms(single) / _p50_ms(simulated))
    for column, row in (("float", single), ("Q/DQ in FP32", simulated), ("INT8", int8)):
        cell = shown[f"Accuracy: {column}"]
        assert _shows(cell, row["accuracy"][0]["value"])
        assert cell.kind == row["kind"]
    covered = int8["coverage"]
    share = 100 * covered["int8_macs"] / covered["total_macs"]
    assert _shows(shown["INT8 MAC coverage"], share)


def test_coverage_follows_from_the_shapes(lines: list[dict[str, Any]], built: Built) -> None:
    """Two layers of 4·32·32 + 2·32·64 in INT8; two T·T·32 matmuls and the head are float."""
    tokens, width, inner = SEQUENCE, 32, 64
    vocabulary = built("bert").manifest.matmuls[-1].macs // (tokens * width)
    int8 = 2 * tokens * (4 * width * width + 2 * width * inner)
    other = 2 * 2 * tokens * tokens * width + tokens * width * (width + vocabulary)
    for row in (r for r in lines if r["precision"] == "int8"):
        assert row["coverage"]["int8_macs"] == int8
        assert row["coverage"]["total_macs"] == int8 + other


def test_the_latency_table_is_what_the_raw_samples_say(
    page: Page, lines: list[dict[str, Any]]
) -> None:
    table = page.tables["Latency of every configuration"]
    assert len(table) == len(lines)
    for row in (r for r in lines if "latency" in r):
        pooled = np.concatenate(row["latency"]["rounds_ns"]) / 1e6
        matching = [
            shown
            for shown in table
            if shown["Engine"].value == row["engine"]
            and shown["Samples"].value == str(len(pooled))
            and _shows(shown["Latency, ms: p50"], _p50_ms(row))
        ]
        assert matching, row["engine"]
        assert any(
            _shown_or_lacking(shown["Latency, ms: p90"], pooled)
            and _shows(shown["Throughput: sequences/s"], 8e3 / _p50_ms(row))
            for shown in matching
        )


def _shown_or_lacking(cell: Seen, pooled: np.ndarray) -> bool:
    if len(pooled) < 36:
        return cell.value == "takes 36 samples"
    return _shows(cell, float(np.percentile(pooled, 90)))


@pytest.mark.slow
def test_two_bundles_stand_in_one_report(bundle: Bundle, tmp_path: Path) -> None:
    data = write_arrays(tmp_path / "eval.npz", rows=8, length=8)
    other = Path(shutil.copytree(bundle.path, tmp_path / "other-int8"))
    rows = deploy.profile([bundle.path, other], data=data, **QUICK)
    assert [row.bundle for row in rows] == [bundle.path.name] * 3 + ["other-int8"] * 3
    deploy.report(rows, tmp_path / "r.html")
