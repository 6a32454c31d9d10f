"""Flags that engines read, and the shapes they are built for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deploy
from calib.inputs import GraphInput
from deploy.bundle import Bundle, open_bundle
from deploy.commands.build import BuildOptions
from deploy.engine_choice import choose_engines
from deploy.engine_flags import engine_options
from deploy.engine_options import EngineOptions
from deploy.engines import ENGINES
from deploy.shapes import engine_shapes, fitting, longest_sequence, shape_wishes
from tests.deploy.running import run_here
from trueint8.errors import BuildError, ConfigError

IDS = GraphInput("input_ids", np.dtype(np.int64), (None, None))
MASK = GraphInput("attention_mask", np.dtype(np.int64), (None, None))
PIXELS = GraphInput("pixel_values", np.dtype(np.float32), (None, 3, 32, 32))
BATCH = {n: np.ones((8, 128), np.int64) for n in ("input_ids", "attention_mask")}


def shapes(**flags: Any) -> Any:
    suggested = engine_shapes([IDS, MASK], BATCH, 512)
    return shape_wishes(BuildOptions(**flags)).applied(suggested, [IDS, MASK], 512)


def test_without_flags_engines_have_no_options() -> None:
    assert engine_options(BuildOptions(), ["openvino"]) == EngineOptions()
    assert shape_wishes(BuildOptions()).to_plain() == {}
    assert shapes()["input_ids"] == ((1, 1), (8, 128), (8, 512))


@pytest.mark.parametrize(
    ("flags", "engine", "expected"),
    [
        ({"gpu": "sm86, SM89,sm86"}, "tensorrt-rtx", {"gpu": ["sm86", "sm89"]}),
        ({"workspace": 64}, "tensorrt-rtx", {"workspace_mib": 64}),
        ({"workspace": 64}, "tensorrt", {"workspace_mib": 64}),
        ({"opt_level": 0}, "tensorrt", {"opt_level": 0}),
        ({"timing_cache": "t.bin"}, "tensorrt", {"timing_cache": "t.bin"}),
        ({"version_compatible": True}, "tensorrt", {"version_compatible": True}),
        ({"hardware_compatible": "ampere+"}, "tensorrt", {"hardware_compatible": "ampere+"}),
        ({"no_cuda_graph": True}, "tensorrt-rtx", {"cuda_graph": False}),
    ],
)
def test_a_flag_becomes_an_option(
    flags: dict[str, Any], engine: str, expected: dict[str, Any]
) -> None:
    found = engine_options(BuildOptions(**flags), ["openvino", engine])
    assert found.to_plain() == expected
    assert set(expected) <= ENGINES.load(engine).options


@pytest.mark.parametrize(
    ("flags", "problem", "fix"),
    [
        ({"gpu": "sm90"}, "compiles for no 'sm90'", "did you mean 'sm89'? choose from: sm75"),
        ({"gpu": "hopper"}, "compiles for no 'hopper'", "choose from: sm75, sm80"),
        ({"gpu": ","}, "--gpu is empty", "choose from"),
        ({"workspace": 0}, "--workspace is 0 MiB", "--workspace 4096"),
        ({"opt_level": 6}, "--opt-level is 6; expected 0 to 5", "--opt-level 5"),
        ({"hint": "latencey"}, "--hint is 'latencey'", "did you mean 'latency'?"),
        (
            {"timing_cache": "t"},
            "--timing-cache means nothing to tensorrt-rtx",
            "--engine tensorrt",
        ),
        ({"opt_level": 3}, "--opt-level means nothing to tensorrt-rtx", "--engine tensorrt"),
    ],
)
def test_a_wrong_flag_is_told(flags: dict[str, Any], problem: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        engine_options(BuildOptions(**flags), ["tensorrt-rtx"])
    assert problem in caught.value.problem
    assert fix in caught.value.fix


def test_a_flag_for_another_engine_is_told_with_every_engine_that_reads_it() -> None:
    with pytest.raises(ConfigError) as caught:
        engine_options(BuildOptions(workspace=64), ["openvino", "onnxruntime"])
    assert caught.value.problem == "--workspace means nothing to openvino, onnxruntime"
    assert caught.value.fix == "leave it out, or build with --engine tensorrt or tensorrt-rtx"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"max_shapes": "input_ids:16x256"}, ((1, 1), (8, 128), (16, 256))),
        ({"max_shapes": "input_ids:4x64"}, ((1, 1), (4, 64), (4, 64))),
        ({"min_shapes": "input_ids:2x16"}, ((2, 16), (8, 128), (8, 512))),
        ({"opt_shapes": "input_ids:32x512"}, ((1, 1), (32, 512), (32, 512))),
        (
            {
                "min_shapes": "input_ids:8x128,attention_mask:8x128",
                "opt_shapes": "input_ids:8x128",
                "max_shapes": "attention_mask:8x128, input_ids:8x128",
            },
            ((8, 128),) * 3,
        ),
    ],
)
def test_shapes_replace_the_suggested_and_the_others_give_way(
    flags: dict[str, str], expected: Any
) -> None:
    assert shapes(**flags) == {"input_ids": expected, "attention_mask": expected}


def test_inputs_follow_only_those_that_agree_and_are_alike() -> None:
    three = [IDS, MASK, GraphInput("labels", np.dtype(np.int64), (None, None))]
    suggested = dict(engine_shapes([IDS, MASK], BATCH, None))
    suggested["labels"] = ((1, 1), (8, 1), (8, 1))
    wanted = shape_wishes(BuildOptions(max_shapes="input_ids:4x64"))
    found = wanted.applied(suggested, three, None)
    assert found["attention_mask"] == found["input_ids"] == ((1, 1), (4, 64), (4, 64))
    assert found["labels"] == ((1, 1), (8, 1), (8, 1))


@pytest.mark.parametrize(
    ("flags", "problem", "fix"),
    [
        ({"max_shapes": "input_id:1x8"}, "has no input 'input_id'", "did you mean 'input_ids'?"),
        ({"max_shapes": "input_ids:8"}, "'input_ids' cannot be 8", "its shape is NxN"),
        ({"max_shapes": "input_ids:8x513"}, "the model has 512 positions", "512 tokens or fewer"),
        ({"max_shapes": "input_ids"}, "'input_ids' is no input with its shape", "8x128"),
        ({"min_shapes": "input_ids:0x8"}, "'input_ids:0x8' is no input", "--min-shapes input"),
        ({"opt_shapes": "input_ids:1x8,input_ids:1x9"}, "a second one", "8x128"),
        (
            {"min_shapes": "input_ids:4x8", "max_shapes": "input_ids:2x16"},
            "in no order: at least 4x8, usually 2x16, at most 2x16",
            "--max-shapes no less",
        ),
        ({"min_shapes": "input_ids:9x8"}, "calibration batches", "larger --batch-size"),
    ],
)
def test_wrong_shapes_are_told(flags: dict[str, str], problem: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        shapes(**flags)
    assert problem in caught.value.problem
    assert fix in caught.value.fix


def test_axes_that_the_model_fixes_stay() -> None:
    pixels = {"pixel_values": np.zeros((4, 3, 32, 32), np.float32)}
    suggested = engine_shapes([PIXELS], pixels, None)
    wanted = shape_wishes(BuildOptions(max_shapes="pixel_values:16x3x32x32"))
    found = wanted.applied(suggested, [PIXELS], None)
    assert found["pixel_values"] == ((1, 3, 32, 32), (4, 3, 32, 32), (16, 3, 32, 32))
    wrong = shape_wishes(BuildOptions(max_shapes="pixel_values:16x3x64x64"))
    with pytest.raises(ConfigError) as caught:
        wrong.applied(suggested, [PIXELS], None)
    assert "its shape is Nx3x32x32" in caught.value.fix


def test_the_checked_batch_is_cut_to_the_largest_shapes() -> None:
    found = shapes(max_shapes="input_ids:4x64,attention_mask:4x64", min_shapes="input_ids:1x1")
    assert {a.shape for a in fitting(BATCH, found).values()} == {(4, 64)}
    assert longest_sequence(found) == 64
    assert longest_sequence(shapes()) == 512


def test_auto_and_all_take_what_is_here() -> None:
    if ENGINES.load("tensorrt").runs_here:
        pytest.skip("TensorRT and a GPU are here")
    assert choose_engines("auto")[0] == "openvino"
    assert "tensorrt" not in choose_engines("all")
    assert {"onnxruntime", "openvino"} <= set(choose_engines("all"))


def test_an_engine_that_cannot_build_here_is_told_before_the_calibration(
    monkeypatch: pytest.MonkeyPatch, float_onnx: Path, arrays: Path, tmp_path: Path
) -> None:
    if ENGINES.load("tensorrt").runs_here:
        pytest.skip("TensorRT and a GPU are here")
    monkeypatch.setattr(type(ENGINES.load("tensorrt")), "version", lambda self: "11.4")
    with pytest.raises(BuildError) as caught:
        deploy.build(float_onnx, calib_data=arrays, out=tmp_path / "o", engine="tensorrt")
    assert "tensorrt builds on the GPU that it builds for" in caught.value.problem
    assert "tensorrt-rtx" in caught.value.fix
    assert not (tmp_path / "o").exists()


@pytest.fixture(scope="module")
def tuned(float_onnx: Path, arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A plan for two targets and few shapes, by the command line."""
    pytest.importorskip("tensorrt_rtx")
    out = tmp_path_factory.mktemp("tuned") / "b"
    ended = run_here(
        "build", float_onnx, "--int8", "--calib-data", arrays, "-o", out, "--engine",
        "tensorrt-rtx", "--gpu", "sm86,sm89", "--no-cuda-graph", "--workspace", 1024,
        "--max-shapes", "input_ids:4x16,attention_mask:4x16", "--min-shapes", "input_ids:1x8",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "rest FP16" in ended.out
    return open_bundle(out)


def test_a_bundle_tells_its_shapes_and_options(tuned: Bundle) -> None:
    manifest = tuned.manifest
    assert manifest.shapes["input_ids"] == [[1, 8], [4, 16], [4, 16]]
    assert len({str(three) for three in manifest.shapes.values()}) == 1
    assert manifest.engines["tensorrt-rtx"].options == {
        "gpu": ["sm86", "sm89"],
        "cuda_graph": False,
        "workspace_mib": 1024,
    }
    running = tuned.running("tensorrt-rtx", 1)
    assert running.options.gpu == ("sm86", "sm89") and not running.options.cuda_graph
    plain = manifest.request["shapes"]
    assert plain["most"] == {"input_ids": [4, 16], "attention_mask": [4, 16]}


def test_the_same_shapes_are_the_same_build_and_others_another(
    tuned: Bundle, float_onnx: Path, arrays: Path
) -> None:
    given: dict[str, Any] = {
        "calib_data": arrays, "out": tuned.path, "engine": "tensorrt-rtx", "gpu": "sm86,sm89",
        "no_cuda_graph": True, "workspace": 1024, "min_shapes": "input_ids:1x8",
    }  # fmt: skip
    mask = "attention_mask:4x16"
    again = deploy.build(float_onnx, max_shapes=f"input_ids:4x16,{mask}", **given)
    assert again.sha256 == tuned.sha256
    with pytest.raises(ConfigError, match=r"\(other shapes\)"):
        deploy.build(float_onnx, max_shapes=f"input_ids:8x16,{mask}", **given)


def test_a_file_may_hold_the_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deploy.yaml").write_text("gpu: sm86\nmax-shapes: 'input_ids:4x16'\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    shown = run_here("build", "--int8", "--print-config").out
    assert "sm86" in shown and "input_ids:4x16" in shown
