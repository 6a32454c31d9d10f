"""``deploy reconcile``: a wrong scale is found at its layer, and sound engines part nowhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

import deploy
from deploy.bundle import ENGINE as FOLDER
from deploy.bundle import Bundle, open_bundle
from deploy.engines import ENGINES
from deploy.engines.onnxruntime import FILE
from deploy.modules.session import PARAMETERS
from deploy.reconciliation.layers import layers_of
from deploy.reconciliation.outcome import ENGINE, FLOAT, TORCH
from deploy.reconciliation.reconciling import reconcile
from export.onnx_file import load_clean
from tests.deploy.conftest import SMALL
from tests.deploy.planting import multiply_scale, reseal, weight_scales
from tests.deploy.running import run_here
from trueint8.kinds import Kind
from trueint8.progress import Silence

Built = Callable[[str], Bundle]
CPU = ("onnxruntime", "openvino")
_SCALE = ".weight_scale"


@pytest.mark.parametrize("engine", CPU)
@pytest.mark.parametrize("family", ["bert", "opt", "llama", "bert-classes"])
def test_sound_engines_part_nowhere(family: str, engine: str, built: Built) -> None:
    found = reconcile(built(family), engine, None, Silence())
    assert found.parted(ENGINE) == []
    matmuls = [m.name for m in built(family).manifest.matmuls]
    seen = [row.layer for row in found.layers if not row.layer.startswith("output ")]
    assert seen == [name for name in matmuls if name not in found.unseen[ENGINE]]
    assert not found.unseen[ENGINE]
    for row in found.layers:
        assert row.checks[ENGINE].sqnr_db > row.checks[ENGINE].required_db + 6
    quantized = {m.name for m in built(family).manifest.matmuls if not m.reason}
    for row in found.layers:
        if row.layer in quantized:
            assert 20 < row.pairs["float/simulated"].sqnr_db < 60
            assert row.pairs["float/simulated"].kind is Kind.SIMULATED
            assert row.pairs["simulated/engine"].kind is Kind.MEASURED


@pytest.mark.parametrize(("place", "factor"), [(0, 1.3), (4, 2.0), (6, 1.3), (-1, 1.3), (-1, 2.0)])
@pytest.mark.parametrize("engine", CPU)
def test_a_wrong_weight_scale_is_found_at_its_layer_alone(
    bundle_copy: Path, engine: str, place: int, factor: float
) -> None:
    scale = weight_scales(bundle_copy, engine)[place]
    wrong = multiply_scale(bundle_copy, engine, scale, factor)
    found = reconcile(wrong, engine, None, Silence())
    assert found.parted(ENGINE) == [scale.removesuffix(_SCALE)]
    assert found.tapped_db > 60


@pytest.mark.parametrize("engine", CPU)
def test_a_wrong_activation_scale_is_found_at_what_reads_it(bundle_copy: Path, engine: str) -> None:
    wrong = multiply_scale(bundle_copy, engine, "layer_norm_scale", 1.3)
    parted = reconcile(wrong, engine, None, Silence()).parted(ENGINE)
    self = "bert.encoder.layer.0.attention.self"
    assert parted == [f"{self}.{part}" for part in ("query", "key", "value")]


def test_a_scale_changed_in_the_engines_own_file_is_named_by_the_command(
    bundle_copy: Path,
) -> None:
    path = bundle_copy / FOLDER / "onnxruntime" / FILE
    layer = "bert.encoder.layer.1.intermediate.dense"
    model = onnx.load(str(path))
    (scale,) = (t for t in model.graph.initializer if t.name == f"{layer}{_SCALE}")
    scale.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(2), scale.name)
    )
    onnx.save(model, str(path))
    reseal(bundle_copy)
    ended = run_here("reconcile", bundle_copy, "--engine", "onnxruntime")
    assert ended.code == 1
    assert f"onnxruntime parts from the Q/DQ graph at {layer}; build it again: " in ended.err
    assert f"engine: first parts from the Q/DQ graph at {layer}  [MEASURED]" in ended.out
    assert sum("PARTS" in line for line in ended.out.splitlines()) == 1
    assert run_here("reconcile", bundle_copy, "--engine", "openvino").code == 0


def test_all_three_arms_on_the_same_samples(
    checkpoint: Callable[[str], Path],
    calibration: Path,
    tmp_path: Path,
) -> None:
    bundle = deploy.build(
        checkpoint("bert-classes"),
        calib_data=calibration,
        out=tmp_path / "three",
        engine="onnxruntime,torch-int8",
        **SMALL,
    )
    ended = run_here("reconcile", bundle.path, "--engine", "onnxruntime", "--json")
    assert ended.code == 0, ended.err
    found = ended.json
    assert found["first"] == {ENGINE: None, TORCH: None}
    assert found["absent"] == {}
    query = next(r for r in found["layers"] if r["layer"].endswith("0.attention.self.query"))
    assert set(query["pairs"]) == {
        "simulated/engine", "float/simulated", "float/engine", "simulated/torch", "torch/engine"
    }  # fmt: skip
    assert query["pairs"]["simulated/torch"]["sqnr_db"] > 100
    assert query["alone"][TORCH]["kind"] == "SIMULATED"
    assert all("matmul" in name for name in found["unseen"][TORCH])
    assert "eagerly" in found["notes"][TORCH]
    _multiply_step(bundle.path, "bert.encoder.layer.1.intermediate.dense", 1.3)
    wrong = reconcile(open_bundle(bundle.path), "onnxruntime", None, Silence())
    assert wrong.parted(ENGINE) == []
    assert wrong.parted(TORCH) == ["bert.encoder.layer.1.intermediate.dense"]


def _multiply_step(bundle: Path, module: str, factor: float) -> None:
    path = bundle / FOLDER / "torch-int8" / PARAMETERS
    arrays = load_file(path)
    arrays[f"layer {module} 0 scale"] *= np.float32(factor)
    save_file(arrays, path)
    reseal(bundle)


def test_taps_that_change_what_openvino_computes_are_left_out(
    checkpoint: Callable[[str], Path], calibration: Path, tmp_path: Path
) -> None:
    asked = {"engine": "openvino", "attention": "int8", "calib_data": calibration, **SMALL}
    bundle = deploy.build(checkpoint("bert"), out=tmp_path / "int8-attention", **asked)
    found = reconcile(bundle, "openvino", None, Silence())
    assert found.parted(ENGINE) == []
    assert found.tapped_db > 60
    assert "no taps at 4 layers" in found.notes[ENGINE]
    assert len(found.unseen[ENGINE]) == 4
    assert all("/matmul" in name for name in found.unseen[ENGINE])


def test_labels_give_accuracy_with_paired_figures(built: Built, tmp_path: Path) -> None:
    lines = [f'{{"text": "a line of words {i}", "label": {i % 3}}}' for i in range(24)]
    data = tmp_path / "labelled.jsonl"
    data.write_text("\n".join(lines) + "\n", "utf-8")
    asked = ("--data", data, "--samples", "24", "--engine", "openvino")
    found = run_here("reconcile", built("bert-classes").path, *asked, "--json").json
    assert (found["metric"], found["samples"]) == ("accuracy", 24)
    scores = {s["arm"]: s for s in found["scores"]}
    assert set(scores) == {FLOAT, "simulated", ENGINE}
    assert scores[FLOAT]["lost"] is None
    lost = scores[ENGINE]["lost"]
    assert lost["low"] <= lost["value"] <= lost["high"]
    assert 0 < scores[ENGINE]["mcnemar"] <= 1
    flips = found["outputs"]["logits"]["float/engine"]["flips"]
    assert flips * 24 == pytest.approx(round(flips * 24))
    text = run_here("reconcile", built("bert-classes").path, *asked).out
    assert "accuracy of engine" in text and "McNemar p" in text
    assert "torch: absent, the bundle holds no torch-int8" in text


def test_what_cannot_be_reconciled_is_refused(built: Built) -> None:
    bundle = built("bert").path
    run_here("reconcile").refused(2, "no bundle given", "deploy reconcile BUNDLE")
    run_here("reconcile", bundle, "--engine", "openvin").refused(3, "did you mean")
    run_here("reconcile", bundle, "--engine", "tensorrt-rtx").refused(8, "reconciled here")
    with mock.patch.object(type(ENGINES.load("openvino")), "int8_rest", lambda _: None):
        run_here("reconcile", bundle, "--engine", "openvino").refused(8, "no INT8")


def test_an_engine_of_another_model_is_refused(bundle_copy: Path, built: Built) -> None:
    other = built("bert-classes").engine_folder("onnxruntime")
    shutil.rmtree(bundle_copy / FOLDER / "onnxruntime")
    shutil.copytree(other, bundle_copy / FOLDER / "onnxruntime")
    reseal(bundle_copy)
    ended = run_here("reconcile", bundle_copy, "--engine", "onnxruntime")
    ended.refused(8, "of another model")


def test_a_layer_is_known_by_its_product_its_bias_and_its_q_and_dq(built: Built) -> None:
    graph = load_clean(built("bert").path / "model.int8.onnx")
    names = [m.name for m in built("bert").manifest.matmuls]
    layers = layers_of(graph, names)
    assert [layer.name for layer in layers] == names
    first = layers[0]
    assert first.values[:2] == ("val_37", "linear") and first.result == "linear"
    assert first.tap(["unknown", "val_37"]) == "val_37" and not first.tap(["unknown"])
    gelu = next(x for x in layers if x.name.endswith("0.intermediate.dense"))
    assert gelu.tap(["gelu_int8"]) == "gelu_dequantized"
    assert gelu.floats["gelu_dequantized"] == "gelu"
