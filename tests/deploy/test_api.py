"""The Python API: the command's job in four lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import deploy
from deploy.bundle import Bundle
from trueint8.errors import ConfigError, RunError, UnknownName

Arrays = dict[str, np.ndarray]


@pytest.fixture
def inputs(arrays: Path) -> Arrays:
    with np.load(arrays) as archive:
        return {name: archive[name][:4] for name in archive.files}


def test_build_load_profile_report(
    float_onnx: Path, arrays: Path, inputs: Arrays, tmp_path: Path
) -> None:
    bundle = deploy.build(float_onnx, calib_data=arrays, out=tmp_path / "b", engine="onnxruntime")
    with deploy.load(bundle.path) as session:
        outputs = session.run(inputs)
    rows = deploy.profile([bundle.path], data=arrays, rounds=3, round_ms=5, samples=4)
    page = deploy.report(rows, tmp_path / "report.html")
    assert list(outputs) == ["logits"] and outputs["logits"].dtype == np.float32
    assert [row.precision for row in rows] == ["fp32", "fp32", "int8"]
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")


def test_build_returns_what_is_up_to_date(bundle: Bundle, float_onnx: Path, arrays: Path) -> None:
    again = deploy.build(
        float_onnx, calib_data=arrays, out=bundle.path, engine="openvino,onnxruntime"
    )
    assert again == bundle


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("graph", ["int8", "float"])
def test_any_batch_and_length_runs(
    bundle: Bundle, inputs: Arrays, engine: str, graph: Literal["int8", "float"]
) -> None:
    with deploy.load(bundle.path, engine=engine, graph=graph, threads=1) as session:
        whole = session.run(inputs)["logits"]
        one = session.run({k: v[1:2, :5] for k, v in inputs.items()})["logits"]
        again = session.run(inputs)["logits"]
    assert whole.shape[:2] == (4, 32)
    assert one.shape[:2] == (1, 5)
    np.testing.assert_array_equal(whole, again)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_bad_inputs_are_named(bundle: Bundle, inputs: Arrays, engine: str) -> None:
    with deploy.load(bundle.path, engine=engine) as session:
        without = {k: v for k, v in inputs.items() if k != "attention_mask"}
        with pytest.raises(RunError, match="'attention_mask' is missing") as caught:
            session.run(without)
        assert "input_ids, attention_mask, token_type_ids" in caught.value.fix
        with pytest.raises(RunError, match="'attention_mask' is missing; got: nothing|missing"):
            session.run({})
        wrong = inputs | {"input_ids": inputs["input_ids"].astype(np.int32)}
        with pytest.raises(RunError, match="'input_ids' has dtype int32, not int64") as caught:
            session.run(wrong)
        assert ".astype('int64')" in caught.value.fix
        with pytest.raises(RunError) as caught:
            session.run(inputs | {"input_ids": inputs["input_ids"][0]})
        assert "shape" in caught.value.fix
        assert session.run(inputs)["logits"].shape[0] == 4, "still usable after an error"


def test_an_engine_the_bundle_lacks_or_that_cannot_run_here(
    bundle: Bundle, built: Callable[[str], Bundle]
) -> None:
    with pytest.raises(RunError, match="holds no engine tensorrt-rtx; it holds: "):
        deploy.load(bundle.path, engine="tensorrt-rtx")
    with pytest.raises(RunError, match="BUILT, not run") as caught:
        deploy.load(built("bert").path, engine="tensorrt-rtx")
    assert "openvino" in caught.value.fix


def test_errors_are_exceptions_with_a_fix(float_onnx: Path, arrays: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as config:
        deploy.build(float_onnx, out=tmp_path / "o")
    assert "--calib-data" in config.value.fix
    with pytest.raises(UnknownName):
        deploy.build(float_onnx, calib_data=arrays, out=tmp_path / "o", engine="none")
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        deploy.train  # noqa: B018
    assert not list(tmp_path.iterdir())
