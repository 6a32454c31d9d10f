"""Groups and float channels, built and read back from the engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx_ir.passes import common

import deploy
from deploy.bundle import Bundle
from export.channels import channel_space
from export.onnx_file import load_clean, model_bytes
from export.passes.permute_channels import PermuteChannels
from export.reference import open_reference
from tests.deploy.checkpoints import FAMILIES
from tests.deploy.conftest import GRAPH_ENGINES, SEQUENCE, SMALL
from tests.deploy.running import run_here

Built = Callable[[str], Bundle]
Checkpoint = Callable[[str], Path]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_residual_stream_in_another_order_computes_the_same(family: str, built: Built) -> None:
    bundle = built(family)
    ids = np.random.default_rng(0).integers(5, 300, (2, 9))
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    feeds = {i.name: known.get(i.name, np.zeros_like(ids)) for i in bundle.manifest.inputs}
    model = load_clean(bundle.float_graph)
    with open_reference(bundle.float_graph) as run:
        expected = run(feeds)
    common.ShapeInferencePass()(model)
    first = next(n for n in model.graph if n.op_type == "MatMul")
    assert first.inputs[0] is not None
    space = channel_space(model.graph, first.inputs[0])
    assert not space.sources and len(space.constants) > 10, "all of it is in the weights"
    PermuteChannels(space, np.random.default_rng(1).permutation(space.width))(model)
    with open_reference(model_bytes(model)) as run:
        actual = run(feeds)
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, atol=1e-4 * np.abs(values).max())


@pytest.mark.parametrize(("family", "per_layer"), [("bert", 6), ("llama", 7)])
def test_every_engine_runs_the_groups_in_int8_and_the_outliers_in_float(
    family: str, per_layer: int, checkpoint: Checkpoint, calibration: Path, tmp_path: Path
) -> None:
    made = deploy.build(
        checkpoint(family), calib_data=calibration, out=tmp_path / "o", engine=GRAPH_ENGINES,
        calib="minmax", groups=2, float_channels=8, **SMALL,
    )  # fmt: skip
    assert made.manifest.calibration_label == "minmax, auto, 2 groups, 8 float channels"
    assert set(made.manifest.grouped.values()) == {"columns", "residual", "gather"}
    for audit in run_here("inspect", made.path, "--json").json:
        executed = {m["matmul"]: m["executed"] for m in audit["matmuls"]}
        groups = [p for name, p in executed.items() if "/group" in name]
        assert groups == ["int8"] * (2 * 2 * per_layer), audit["engine"]
        outliers = [p for name, p in executed.items() if name.endswith("/outliers")]
        assert len(outliers) == 2 * per_layer
        floats = {"fp16", "not found"} if audit["engine"] == "tensorrt-rtx" else {"fp32"}
        assert set(outliers) <= floats, audit["engine"]
    assert all(e.cosine is None or e.cosine > 0.999 for e in made.manifest.engines.values())


def test_one_group_is_what_is_built_anyway(bundle: Bundle, float_onnx: Path, arrays: Path) -> None:
    again = deploy.build(
        float_onnx, calib_data=arrays, out=bundle.path, engine="openvino,onnxruntime", groups=1,
        float_channels=0,
    )  # fmt: skip
    assert again.sha256 == bundle.sha256 and not again.manifest.grouped


@pytest.mark.parametrize(
    ("flag", "number", "words"),
    [
        ("--groups", 0, "groups=0 is out of range"),
        ("--groups", 33, "has 32 channels, too few for 33 groups"),
        ("--float-channels", -1, "float-channels=-1 is out of range"),
        ("--float-channels", 32, "32 in float leave none"),
    ],
)
def test_impossible_numbers_are_refused(
    flag: str, number: int, words: str, float_onnx: Path, arrays: Path, tmp_path: Path
) -> None:
    ended = run_here(
        "build", float_onnx, "--int8", "--calib-data", arrays, flag, number, "--quiet",
        "--seq-len", SEQUENCE, "-o", tmp_path / "o",
    )  # fmt: skip
    ended.refused(2, words)
    assert not (tmp_path / "o").exists()
