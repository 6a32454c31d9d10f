"""Checkpoints and .onnx files to bundles: what is in them, and that all of it is INT8."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from safetensors.numpy import load_file

import deploy
from deploy.bundle import Bundle, open_bundle
from export.checkpoint import quiet_transformers
from tests.deploy.checkpoints import FAMILIES, LAYERS, POSITIONS
from tests.deploy.conftest import GRAPH_ENGINES, SEQUENCE, SMALL
from tests.deploy.running import run_here

Built = Callable[[str], Bundle]
Checkpoint = Callable[[str], Path]

ENGINES = {"onnxruntime": "model.onnx", "openvino": "model.xml", "tensorrt-rtx": "model.plan"}
WEIGHTS_PER_LAYER = {"llama": 7}
"""Others have six: query, key, value, output and the two of the feed-forward.

GPT-2's one weight for query, key and value is cut into three, since TensorRT-RTX
would otherwise dequantize it first.
"""
LOADERS: dict[str, Any] = {
    "bert": transformers.BertForMaskedLM,
    "bert-classes": transformers.BertForSequenceClassification,
    "bert-bare": transformers.BertModel,
    "roberta": transformers.RobertaForMaskedLM,
    "opt": transformers.OPTForCausalLM,
    "gpt2": transformers.GPT2LMHeadModel,
    "llama": transformers.LlamaForCausalLM,
}
TASKS = {
    "bert": "fill-mask",
    "roberta": "fill-mask",
    "bert-classes": "text-classification",
    "bert-bare": "feature-extraction",
}
HEADS = {
    "bert": ["cls.predictions.transform.dense", "cls.predictions.decoder"],
    "roberta": ["lm_head.dense", "lm_head.decoder"],
    "opt": ["lm_head"],
    "gpt2": ["lm_head"],
    "llama": ["lm_head"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bundle_holds_all_its_parts_and_nothing_else(family: str, built: Built) -> None:
    folder = built(family).path
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    expected = {
        "model.onnx",
        "model.int8.onnx",
        "ranges.safetensors",
        "golden.safetensors",
        "manifest.json",
        "manifest.sha256",
        "engine/openvino/model.bin",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/config.json",
        *(f"engine/{name}/{file}" for name, file in ENGINES.items()),
    }
    assert found == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_every_quantized_matmul_runs_in_int8_on_every_engine(family: str, built: Built) -> None:
    audits = run_here("inspect", built(family).path, "--json").json
    assert [a["engine"] for a in audits] == list(ENGINES)
    for audit in audits:
        matmuls = audit["matmuls"]
        quantized = [m for m in matmuls if not m["reason"]]
        assert len(quantized) == LAYERS * WEIGHTS_PER_LAYER.get(family, 6) + _extra(family)
        not_int8 = [m["matmul"] for m in quantized if m["executed"] != "int8"]
        assert not not_int8, audit["engine"]
        assert audit["kind"] == ("BUILT" if audit["engine"] == "tensorrt-rtx" else "MEASURED")
        int8_macs = sum(m["macs"] for m in matmuls if m["executed"] == "int8")
        share = int8_macs / sum(m["macs"] for m in matmuls)
        assert audit["int8_mac_coverage"] == pytest.approx(share)


def _extra(family: str) -> int:
    """A classifier's and a bare model's pooler is quantized where its output is used."""
    return 2 if family == "bert-classes" else 0


@pytest.mark.parametrize("family", HEADS)
def test_the_head_stays_float_and_says_why(family: str, built: Built) -> None:
    reasons = {m.name: m.reason for m in built(family).manifest.matmuls if m.weighted}
    heads = [name for name, reason in reasons.items() if "head" in reason]
    assert heads == HEADS[family]
    assert all("--quantize-head" in reasons[name] for name in heads)


def test_quantize_head_quantizes_it_too(
    float_onnx: Path, calibration: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    ended = run_here(
        "build", float_onnx, "--int8", "--quantize-head", "--calib-data", calibration,
        "--tokenizer", checkpoint("bert"), "--task", "fill-mask", "--calib-samples", 8,
        "--seq-len", SEQUENCE, "--engine", "all", "-o", tmp_path / "out",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    for audit in run_here("inspect", tmp_path / "out", "--json").json:
        weighted = [m for m in audit["matmuls"] if m["weighted"]]
        assert {m["executed"] for m in weighted} == {"int8"}, audit["engine"]
        assert HEADS["bert"][-1] in {m["matmul"] for m in weighted}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_float_graph_computes_what_torch_does(
    family: str, built: Built, checkpoint: Checkpoint
) -> None:
    bundle = built(family)
    with quiet_transformers():
        model = LOADERS[family].from_pretrained(checkpoint(family), attn_implementation="eager")
    draw = np.random.default_rng(3)
    session = onnxruntime.InferenceSession(bundle.float_graph, providers=["CPUExecutionProvider"])
    for rows, length in ((1, 7), (3, POSITIONS)):
        ids = draw.integers(5, 400, (rows, length))
        mask = np.ones_like(ids)
        mask[0, length // 2 :] = 0
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids}
        given = {i.name: given[i.name] for i in session.get_inputs()}
        with torch.no_grad():
            tensors = {k: torch.from_numpy(v) for k, v in given.items()}
            expected = model.eval()(**tensors)[0].numpy()
        (actual,) = session.run(None, given)
        if expected.ndim == 3:
            expected, actual = expected[mask == 1], actual[mask == 1]
        np.testing.assert_allclose(actual, expected, atol=2e-5 * np.abs(expected).max())
    assert bundle.manifest.parity is not None
    assert 0 <= bundle.manifest.parity.relative_error < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_int8_engines_stay_close_to_the_float_graph(family: str, built: Built) -> None:
    bundle = built(family)
    golden = load_file(bundle.path / "golden.safetensors")
    inputs = {k.removeprefix("input."): v for k, v in golden.items() if k.startswith("input.")}
    (expected,) = (v for k, v in golden.items() if k.startswith("output."))
    for engine in ("onnxruntime", "openvino"):
        with deploy.load(bundle.path, engine=engine, graph="float") as session:
            (actual,) = session.run(inputs).values()
            np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())
        with deploy.load(bundle.path, engine=engine) as session:
            (actual,) = session.run(inputs).values()
        cosine = (actual * expected).sum() / np.linalg.norm(actual) / np.linalg.norm(expected)
        assert 0.98 < cosine < 1.0, engine


def test_the_manifest_says_what_was_done(built: Built, calibration: Path) -> None:
    bundle = built("bert")
    raw = json.loads((bundle.path / "manifest.json").read_text())
    assert raw["schema"] == "trueint8/bundle/1"
    assert raw["model"]["name"] == "bert"
    assert raw["model"]["attention"] == "vanilla"
    assert raw["model"]["max_positions"] == POSITIONS
    assert [i["name"] for i in raw["inputs"]] == ["input_ids", "attention_mask", "token_type_ids"]
    assert all(i["shape"] == [None, None] for i in raw["inputs"])
    entry = raw["calibration"]
    assert (entry["estimator"], entry["percentile"]) == ("minmax", None)
    assert (entry["samples"], entry["batch_size"], entry["sequence"]) == (16, 8, SEQUENCE)
    assert entry["data"] == calibration.name
    assert set(raw["engines"]) == set(ENGINES)
    assert {n: e["runs_here"] for n, e in raw["engines"].items()} == {
        "onnxruntime": True,
        "openvino": True,
        "tensorrt-rtx": False,
    }
    assert raw["versions"]["onnxruntime"] == raw["engines"]["onnxruntime"]["version"]
    assert {"export", "calibrate", "quantize", "golden"} < set(raw["steps_s"])
    assert str(bundle.path.parent) not in json.dumps(raw), "the manifest tells where it was built"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_manifest_knows_the_task_and_labels(family: str, built: Built) -> None:
    model = built(family).manifest.model
    assert model.task == TASKS.get(family, "text-generation")
    if family == "bert-classes":
        assert model.label_ids == {"negative": 0, "positive": 1, "neutral": 2}


def test_ranges_hold_a_scale_for_every_quantized_activation(built: Built) -> None:
    ranges = load_file(built("bert").path / "ranges.safetensors")
    graph = onnx.load(built("bert").int8_graph)
    quantized = {n.input[0] for n in graph.graph.node if n.op_type == "QuantizeLinear"}
    assert {k.removesuffix("/scale") for k in ranges if k.endswith("/scale")} == quantized
    for name in quantized:
        (low, high), (least, most) = ranges[f"{name}/range"], ranges[f"{name}/summary"][:2]
        assert low == -high
        assert 0 < high <= max(-least, most)
        assert ranges[f"{name}/scale"][0] == pytest.approx(high / 127)


def test_golden_inputs_are_drawn_and_never_the_calibration_data(
    built: Built, bundle: Bundle, arrays: Path
) -> None:
    golden = load_file(bundle.path / "golden.safetensors")
    assert bundle.manifest.golden == "drawn, seed 0"
    ours = {row.tobytes() for row in golden["input.input_ids"]}
    theirs = {row.tobytes() for row in np.load(arrays)["input_ids"]}
    assert not ours & theirs
    assert built("gpt2").manifest.golden == "drawn, seed 0"


def test_golden_from_calib_stores_the_calibration_data(
    float_onnx: Path, arrays: Path, tmp_path: Path
) -> None:
    made = deploy.build(
        float_onnx, calib_data=arrays, out=tmp_path / "o", engine="onnxruntime",
        golden_from_calib=True,
    )  # fmt: skip
    golden = load_file(made.path / "golden.safetensors")
    assert np.array_equal(golden["input.input_ids"], np.load(arrays)["input_ids"][:8])
    assert made.manifest.golden == "calibration data"


def test_the_calibration_data_under_another_name_is_no_golden_data(
    float_onnx: Path, arrays: Path, tmp_path: Path
) -> None:
    again = Path(shutil.copy(arrays, tmp_path / "again.npz"))
    ended = run_here(
        "build", float_onnx, "--int8", "--calib-data", arrays, "--golden", again,
        "-o", tmp_path / "o",
    )  # fmt: skip
    ended.refused(2, "--golden-from-calib")


def test_the_same_seed_gives_the_same_bundle_and_another_seed_does_not(
    built: Built, checkpoint: Checkpoint, calibration: Path, tmp_path: Path
) -> None:
    def build(seed: int) -> Bundle:
        return deploy.build(
            checkpoint("bert"), calib_data=calibration, out=tmp_path / str(seed),
            engine="onnxruntime", seed=seed, **SMALL,
        )  # fmt: skip

    names = ("model.onnx", "model.int8.onnx", "ranges.safetensors")
    bundles = built("bert"), build(0), build(1)
    first, again, other = (b.manifest for b in bundles)
    assert {n: first.files[n].sha256 for n in names} == {n: again.files[n].sha256 for n in names}
    assert first.files["ranges.safetensors"] != other.files["ranges.safetensors"]
    golden = [load_file(b.path / "golden.safetensors") for b in bundles]
    assert set(golden[0]) > set(golden[1]), "another engine has a graph of its own"
    assert all(np.array_equal(golden[0][name], golden[1][name]) for name in golden[1])
    for name in ("input.input_ids", "output.logits", "simulated.model.int8.onnx.logits"):
        assert not np.array_equal(golden[1][name], golden[2][name])
    assert first.files["model.onnx"] == other.files["model.onnx"]


def test_a_ready_onnx_file_with_arrays(bundle: Bundle, float_onnx: Path) -> None:
    manifest = bundle.manifest
    assert manifest.model.kind == "onnx"
    assert manifest.model.task == "feature-extraction"
    assert manifest.parity is not None
    assert manifest.parity.relative_error < 1e-5
    assert bundle.tokenizer is None
    assert manifest.engines["openvino"].int8_matmuls == 12 + 1
    assert open_bundle(bundle.path).sha256 == bundle.sha256
    assert onnx.load(float_onnx).graph.output[0].name == "logits"


def test_a_ready_onnx_file_with_text_and_a_tokenizer(
    float_onnx: Path, checkpoint: Checkpoint, calibration: Path, built: Built, tmp_path: Path
) -> None:
    ended = run_here(
        "build", float_onnx, "--int8", "--calib", "minmax", "--calib-data", calibration,
        "--tokenizer", checkpoint("bert"), "--task", "fill-mask", "--calib-samples", 16,
        "--seq-len", SEQUENCE, "--engine", "openvino", "-o", tmp_path / "o",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "in INT8" in ended.out and "[MEASURED, read from the engine]" in ended.out
    made = open_bundle(tmp_path / "o")
    assert made.tokenizer is not None
    # same text, same tokens, same graph: the same ranges as from the checkpoint
    ours, theirs = (load_file(b.path / "ranges.safetensors") for b in (made, built("bert")))
    assert set(ours) >= set(theirs)
    assert all(np.array_equal(ours[k], theirs[k]) for k in theirs)


def test_minmax_takes_the_whole_range(float_onnx: Path, arrays: Path, tmp_path: Path) -> None:
    made = deploy.build(
        float_onnx, calib_data=arrays, out=tmp_path / "o", calib="minmax", engine="onnxruntime"
    )
    ranges = load_file(made.path / "ranges.safetensors")
    for name in (k.removesuffix("/range") for k in ranges if k.endswith("/range")):
        assert ranges[f"{name}/range"][1] == np.abs(ranges[f"{name}/summary"][:2]).max()
    assert made.manifest.calibration.percentile is None


def test_inspect_gates_on_coverage(bundle: Bundle) -> None:
    passed = run_here("inspect", bundle.path, "--fail-under", 0.1)
    failed = run_here("inspect", bundle.path, "--fail-under", 0.999)
    assert passed.code == 0
    assert failed.code == 1
    assert "is below 99.9 %" in failed.err
    assert "MEASURED" in failed.out


@pytest.mark.parametrize("estimator", ["mse", "percentile"])
def test_weights_of_every_scheme_run_in_int8_on_every_engine(
    estimator: str, float_onnx: Path, arrays: Path, tmp_path: Path
) -> None:
    made = deploy.build(
        float_onnx, calib_data=arrays, out=tmp_path / "o", engine="all", weights=estimator,
        weights_per_tensor=True,
    )  # fmt: skip
    weights = [
        n
        for n in onnx.load(made.int8_graph).graph.node
        if n.name.endswith("weight/DequantizeLinear")
    ]
    scales = {i.name: i for i in onnx.load(made.int8_graph).graph.initializer}
    assert weights and all(not scales[n.input[1]].dims for n in weights)
    assert {e.int8_matmuls for e in made.manifest.engines.values()} == {12 + 1}


def test_patterns_decide_what_stays_in_float(
    float_onnx: Path, arrays: Path, bundle: Bundle, tmp_path: Path
) -> None:
    names = [m.name for m in bundle.manifest.matmuls if m.weighted and not m.reason]
    kept = [n for n in names if n.endswith("output.dense")]
    assert kept
    line = ("build", float_onnx, "--int8", "--calib-data", arrays, "--engine", "onnxruntime")
    for index, flag in enumerate(("--keep-float", "--nodes-to-exclude", "--int8-only")):
        out = tmp_path / str(index)
        ended = run_here(*line, flag, "*output.dense", "-o", out)
        assert ended.code == 0, ended.err
        made = open_bundle(out)
        quantized = {m.name for m in made.manifest.matmuls if m.weighted and not m.reason}
        expected = set(kept) if flag == "--int8-only" else set(names) - set(kept)
        assert quantized == expected
        assert made.manifest.engines["onnxruntime"].int8_matmuls == len(expected)
        reasons = {m.reason for m in made.manifest.matmuls if m.name not in quantized}
        assert any("*output.dense" in r for r in reasons)
    ended = run_here(*line, "--keep-float", names[0][:-1], "-o", tmp_path / "none")
    ended.refused(2, "no matmul that can be quantized matches", names[0], "deploy inspect")


@pytest.mark.parametrize("method", ["smoothquant", "shift-scale"])
def test_smoothed_bundles_run_in_int8_and_say_so(
    method: str, checkpoint: Checkpoint, calibration: Path, tmp_path: Path
) -> None:
    ended = run_here(
        "build", checkpoint("bert"), "--int8", "--calib", "minmax", "--smooth", method,
        "--calib-data", calibration, "--calib-samples", 16, "--seq-len", SEQUENCE,
        "--engine", GRAPH_ENGINES, "-o", tmp_path / "o",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    made = open_bundle(tmp_path / "o")
    assert set(made.manifest.smoothed.values()) == {"value", "explicit"}
    quantized = sum(m.weighted and not m.reason for m in made.manifest.matmuls)
    assert {e.int8_matmuls for e in made.manifest.engines.values()} == {quantized}
    assert made.manifest.calibration_label.startswith(f"minmax, {method} 0.")
    assert all(e.cosine is None or e.cosine > 0.99 for e in made.manifest.engines.values())
    assert not list(made.path.glob("smoothed*"))
    refused = run_here(
        "build", checkpoint("bert"), "--int8", "--smooth", method, "--smooth-alpha", 2,
        "--calib-data", calibration, "-o", tmp_path / "x",
    )  # fmt: skip
    refused.refused(2, "alpha=2 is out of range")
