"""The engines that run a checkpoint: what they compute, where they find it, what they refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

import deploy
from deploy.bundle import Bundle
from deploy.engine_graphs import simulated_outputs
from deploy.engines import ENGINES
from deploy.engines.torch import ENGINE as FLOAT
from deploy.engines.torch_int8 import ENGINE as INT8
from deploy.golden import draw_inputs
from deploy.kernels import executed_precisions
from deploy.modules.parameters import Linear, merged, read_parameters
from deploy.modules.session import PARAMETERS
from deploy.sessions import BuildRequest, Configuration, Engine, Running
from export.onnx_file import load_clean, save_model
from export.reference import open_reference
from export.source import source_from_argument
from tests.contracts.outside import ROOT
from tests.deploy.conftest import SEQUENCE, SMALL
from tests.deploy.running import left_behind, run_here
from trueint8.errors import BuildError, ConfigError, IntegrityError, RunError
from trueint8.progress import Silence

Built = Callable[[str], Bundle]
Checkpoint = Callable[[str], Path]

EAGER = Configuration("int8", "fp32", "eager")
MARGIN_DB = 6.0
VALUES = {"bert": "*layer.0.*.value", "opt": "*layers.0.*v_proj"}
"""Projections that stay in float, and that smoothing changes all the same."""


def _build(engine: Engine, graph: Path, bundle: Bundle, checkpoint: Path, out: Path) -> Path:
    folder = out / "engine" / engine.name
    folder.mkdir(parents=True)
    source = source_from_argument(str(checkpoint))
    shapes = bundle.running(next(iter(bundle.manifest.engines)), 1).shapes
    assert shapes is not None
    engine.build(BuildRequest(graph, folder, shapes, Silence(), source=source))
    return folder


def _batch(bundle: Bundle) -> dict[str, np.ndarray]:
    inputs = bundle.manifest.graph_inputs()
    like = {i.name: np.zeros((1, SEQUENCE)) for i in inputs}
    return draw_inputs(load_clean(bundle.float_graph), inputs, like, 3)


def _ratio_db(signal: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(np.square(signal).sum() / np.square(other - signal).sum()))


def _check_close(folder: Path, bundle: Bundle, configuration: Configuration = EAGER) -> None:
    """Compare with the simulated Q/DQ graph: 6 dB closer to it than it is to float."""
    batch = _batch(bundle)
    (simulated,) = simulated_outputs(bundle.int8_graph, batch).values()
    with open_reference(bundle.float_graph) as run:
        (floating,) = run(batch).values()
    with INT8.open(folder, configuration, Running(1)) as session:
        (actual,) = session.run(batch).values()
    allowed = _ratio_db(floating, simulated) + MARGIN_DB
    assert _ratio_db(simulated, actual) >= allowed


def _executed(folder: Path, bundle: Bundle, configuration: Configuration = EAGER) -> dict[str, str]:
    names = {m.name: m.returns for m in bundle.manifest.matmuls}
    running = bundle.running(next(iter(bundle.manifest.engines)), 1)
    kernels = INT8.audit(folder, configuration, running, names)
    return executed_precisions(kernels, names)


@pytest.mark.parametrize("family", ["bert", "bert-classes", "opt", "gpt2", "llama"])
def test_int8_layers_compute_the_quantized_graph(
    family: str, built: Built, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    bundle = built(family)
    folder = _build(INT8, bundle.int8_graph, bundle, checkpoint(family), tmp_path)
    _check_close(folder, bundle)
    _check_close(folder, bundle, Configuration("simulated", "fp32", "eager"))
    executed = _executed(folder, bundle)
    weighted = {m.name: m.reason for m in bundle.manifest.matmuls if m.weighted}
    assert {n: executed[n] for n in weighted} == {
        n: "fp32" if reason else "int8" for n, reason in weighted.items()
    }


@pytest.mark.parametrize("smooth", ["none", "smoothquant", "shift-scale"])
@pytest.mark.parametrize("family", ["bert", "opt"])
def test_every_way_of_smoothing_is_followed(
    family: str, smooth: str, checkpoint: Checkpoint, calibration: Path, tmp_path: Path
) -> None:
    bundle = deploy.build(
        checkpoint(family), calib_data=calibration, out=tmp_path / "o", engine="onnxruntime",
        smooth=smooth, keep_float=(VALUES[family],), **SMALL,
    )  # fmt: skip
    ways = {"bert": {"value", "explicit"}, "opt": {"value", "norm", "explicit"}}[family]
    assert set(bundle.manifest.smoothed.values()) == (set() if smooth == "none" else ways)
    folder = _build(INT8, bundle.int8_graph, bundle, checkpoint(family), tmp_path)
    _check_close(folder, bundle)


def test_a_fused_projection_may_be_int8_in_part(
    checkpoint: Checkpoint, calibration: Path, tmp_path: Path
) -> None:
    bundle = deploy.build(
        checkpoint("gpt2"), calib_data=calibration, out=tmp_path / "o", engine="onnxruntime",
        keep_float=("*h.0.attn.c_attn.1",), **SMALL,
    )  # fmt: skip
    folder = _build(INT8, bundle.int8_graph, bundle, checkpoint("gpt2"), tmp_path)
    layers, _ = read_parameters(folder / PARAMETERS)
    parts = {n: [p.quantized for p in of] for n, of in layers.items() if n.endswith("c_attn")}
    assert list(parts.values()) == [[True, False, True], [True]]
    _check_close(folder, bundle)


def test_the_audit_reads_dtypes_not_intentions(
    built: Built, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """The simulated layers are the same modules, and multiply in float."""
    bundle = built("bert")
    folder = _build(INT8, bundle.int8_graph, bundle, checkpoint("bert"), tmp_path)
    simulated = Configuration("simulated", "fp32", "eager")
    assert set(_executed(folder, bundle, simulated).values()) <= {"fp32", "not found"}


def test_a_graph_that_is_not_the_checkpoints_is_refused(
    built: Built, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    bundle = built("bert")
    model = load_clean(bundle.int8_graph)
    table = next(v for n, v in model.graph.initializers.items() if "position_embeddings" in n)
    assert table.const_value is not None
    table.const_value = ir.tensor(table.const_value.numpy()[::-1].copy(), name=table.name)
    save_model(model, tmp_path / "other.onnx")
    with pytest.raises(BuildError, match="compute something else than the graph"):
        _build(INT8, tmp_path / "other.onnx", bundle, checkpoint("bert"), tmp_path)
    with pytest.raises(BuildError, match="no linear layer of the checkpoint"):
        _build(INT8, bundle.int8_graph, bundle, checkpoint("opt"), tmp_path / "b")


def test_layers_that_read_the_same_are_one() -> None:
    one = Linear(np.ones((2, 3), np.int8), np.ones(2, np.float32), np.array(0.1, np.float32))
    other = Linear(one.weight, one.scale, np.array(0.2, np.float32))
    biased = Linear(one.weight, one.scale, one.step, np.ones(2, np.float32))
    assert merged([one, other]) == [one, other]
    (whole,) = merged([one, biased])
    assert whole.weight.shape == (4, 3)
    assert whole.bias is not None and whole.bias.tolist() == [0, 0, 1, 1]


def test_the_checkpoint_is_found_by_hash_or_in_the_bundle(
    checkpoint: Checkpoint, calibration: Path, tmp_path: Path
) -> None:
    """Built and run compiled, as users do: the one such test beside the engine contract."""
    given = Path(shutil.copytree(checkpoint("bert-one-layer"), tmp_path / "given"))
    ended = run_here(
        "build", given, "--int8", "--calib-data", calibration, "--calib-samples", 8, "--seq-len",
        SEQUENCE, "--engine", "torch-int8,torch", "--embed-checkpoint", "-o", tmp_path / "out",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "torch 2" in ended.out and "the float model, no INT8" in ended.out
    bundle = tmp_path / "out"
    names = {"config.json", "model.safetensors"}
    assert {p.name for p in (bundle / "checkpoint").iterdir()} == names
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    assert {"checkpoint/config.json", "checkpoint/model.safetensors"} < set(manifest["files"])
    entry = manifest["engines"]["torch"]
    assert (entry["int8_matmuls"], entry["rest"]) == (0, "fp32")
    assert entry["cosine"] == pytest.approx(1.0)
    assert manifest["engines"]["torch-int8"]["int8_matmuls"] == 6
    told = {a["engine"]: a["matmuls"] for a in run_here("inspect", bundle, "--json").json}
    assert {m["executed"] for m in told["torch"] if m["weighted"]} == {"fp32"}
    assert {m["executed"] for m in told["torch-int8"] if m["weighted"]} == {"int8"}
    with pytest.raises(ConfigError) as caught:
        deploy.load(bundle, engine="torch")
    assert "pass graph='float'" in caught.value.fix
    shutil.rmtree(given)
    feeds = {n: np.ones((1, 8), np.int64) for n in [i["name"] for i in manifest["inputs"]]}
    with deploy.load(bundle, engine="torch", graph="float", threads=1) as session:
        assert session.run(feeds)["last_hidden_state"].dtype == np.float32


def _moved(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "elsewhere")


def _changed(folder: Path) -> None:
    with (folder / "config.json").open("a") as stream:
        stream.write(" ")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(_moved, "model.safetensors is not there"), (_changed, "config.json is not what the bundle")],
)
def test_a_checkpoint_that_is_gone_or_changed_is_refused(
    spoil: Callable[[Path], None],
    words: str,
    built: Built,
    checkpoint: Checkpoint,
    tmp_path: Path,
) -> None:
    given = Path(shutil.copytree(checkpoint("bert"), tmp_path / "given"))
    folder = _build(FLOAT, built("bert").int8_graph, built("bert"), given, tmp_path)
    spoil(given)
    with pytest.raises(IntegrityError, match=words) as caught:
        FLOAT.open(folder, Configuration("float", "fp32", "eager"), Running(1))
    assert "--embed-checkpoint" in caught.value.fix


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--engine", "torch"), 7, "the model is an .onnx file"),
        (("--engine", "openvino,torch-int8"), 7, "runs the modules of a checkpoint"),
        (("--engine", "onnxruntime", "--embed-checkpoint"), 2, "none of onnxruntime runs"),
    ],
)
def test_what_has_no_checkpoint_is_refused_before_any_work(
    more: tuple[str, ...], code: int, words: str, float_onnx: Path, arrays: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o"
    ended = run_here(
        "build", float_onnx, "--int8", "--calib-data", arrays, *more, "-o", out
    )  # fmt: skip
    ended.refused(code, words)
    assert not left_behind(tmp_path, out)


def test_channels_cannot_be_split(
    checkpoint: Checkpoint, calibration: Path, tmp_path: Path
) -> None:
    ended = run_here(
        "build", checkpoint("bert"), "--int8", "--calib-data", calibration, "--engine",
        "torch-int8", "--groups", 2, "-o", tmp_path / "o",
    )  # fmt: skip
    ended.refused(2, "splits no channels", "--groups")


def test_all_leaves_out_what_needs_a_checkpoint_and_says_so(
    float_onnx: Path, arrays: Path, tmp_path: Path
) -> None:
    ended = run_here(
        "build", float_onnx, "--int8", "--calib-data", arrays, "--engine", "all", "-o",
        tmp_path / "o",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    for name in ("torch", "torch-int8"):
        assert f"left out {name}: the engine {name} runs the modules" in ended.err
        assert not (tmp_path / "o" / "engine" / name).exists()


def test_pickles_and_modules_of_ones_own_are_refused(checkpoint: Checkpoint) -> None:
    from dataclasses import replace

    from deploy.checkpoint_files import checkpoint_source

    source = source_from_argument(str(checkpoint("bert")))
    with pytest.raises(BuildError, match="a function that makes a module"):
        checkpoint_source("torch", replace(source, kind="module"))
    with pytest.raises(BuildError, match="pickle weights"):
        checkpoint_source("torch", replace(source, path=checkpoint("bert").parent))
    with pytest.raises(BuildError, match="no code that comes with a checkpoint"):
        checkpoint_source("torch", replace(source, remote_code=True))


def test_without_a_compiler_a_compiled_session_is_refused(
    built: Built, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = _build(FLOAT, built("bert").int8_graph, built("bert"), checkpoint("bert"), tmp_path)
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        with pytest.raises(RunError, match="C\\+\\+ compiler, and there is none") as caught:
            FLOAT.open(folder, Configuration("float", "fp32"), Running(1))
        with FLOAT.open(folder, Configuration("float", "fp32", "eager"), Running(1)) as session:
            assert session.captures is None, "a processor has no CUDA graphs"
    assert "g++" in caught.value.fix


def test_other_engines_do_not_import_torch(bundle: Bundle) -> None:
    program = (
        "import sys, deploy\n"
        "from deploy.engines import ENGINES\n"
        "loaded = [ENGINES.load(n).name for n in ENGINES.names()]\n"
        "deploy.load(sys.argv[1], engine='openvino').close()\n"
        "print(len(loaded), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(bundle.path)],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(len(ENGINES.names())), "False"]


def test_neither_measures_a_search(
    checkpoint: Checkpoint, calibration: Path, evaluation: Path, tmp_path: Path
) -> None:
    ended = run_here(
        "build", checkpoint("bert"), "--int8", "--calib-data", calibration, "--engine",
        "torch,torch-int8", "--target-drop", 1, "--eval-data", evaluation, "-o", tmp_path / "o",
    )  # fmt: skip
    ended.refused(2, "no drop can be measured")
