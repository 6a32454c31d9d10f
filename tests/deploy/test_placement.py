"""``deploy build``: a graph, decisions and types for each engine, and what each then executes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import transformers

import deploy
from calib.placement import UNFUSED_REASON
from deploy.bundle import Bundle
from export.checkpoint import quiet_transformers
from export.onnx_file import save_model
from tests.deploy.checkpoints import LAYERS
from tests.deploy.conftest import GRAPH_ENGINES, SMALL
from tests.deploy.running import run_here
from tests.export.graphs import graph_from_text, normal

ENGINES = ("onnxruntime", "openvino", "tensorrt-rtx")
OWN = "model.int8.tensorrt-rtx.onnx"
WEIGHTS = 6 * LAYERS
ATTENTION = 2 * LAYERS


@pytest.fixture(scope="module")
def wide(made: Path, tokenizer: Any) -> Path:
    """A BERT whose two heads are 16 wide, which TensorRT-RTX fuses in INT8."""
    folder = made / "wide"
    if not folder.exists():
        config = transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            max_position_embeddings=48,
        )
        with quiet_transformers():
            transformers.BertForMaskedLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def build_wide(wide: Path, made: Path, calibration: Path) -> Callable[..., Bundle]:
    """Build it with options, once each."""
    done: dict[str, Bundle] = {}

    def get(name: str, **options: Any) -> Bundle:
        if name not in done:
            done[name] = deploy.build(
                wide,
                calib_data=calibration,
                out=made / f"wide-{name}",
                engine=GRAPH_ENGINES,
                **{**SMALL, **options},
            )
        return done[name]

    return get


def _executed(bundle: Bundle) -> dict[str, dict[str, set[str]]]:
    """Return, per engine, what matmuls without and with weights run in, without the head."""
    found = {}
    for audit in run_here("inspect", bundle.path, "--json").json:
        lines = [m for m in audit["matmuls"] if not m["matmul"].startswith("cls.")]
        found[audit["engine"]] = {
            kind: {m["executed"] for m in lines if m["weighted"] == weighted}
            for kind, weighted in (("attention", False), ("weights", True))
        }
    return found


def test_an_engine_that_fuses_int8_attention_gets_a_graph_of_its_own(
    build_wide: Callable[..., Bundle],
) -> None:
    bundle = build_wide("auto")
    engines = bundle.manifest.engines
    assert {n: e.graph for n, e in engines.items()} == {
        "onnxruntime": "model.int8.onnx",
        "openvino": "model.int8.onnx",
        "tensorrt-rtx": OWN,
    }
    assert bundle.quantized_graph("tensorrt-rtx").is_file() and OWN in bundle.manifest.files
    assert engines["tensorrt-rtx"].rest == "fp16"
    assert engines["tensorrt-rtx"].int8_matmuls == WEIGHTS + ATTENTION
    assert engines["openvino"].int8_matmuls == WEIGHTS
    assert engines["tensorrt-rtx"].cosine is None and engines["openvino"].simulated_cosine is None
    assert 0.99 < (engines["tensorrt-rtx"].simulated_cosine or 0) < 1
    reasons = {m.reason for m in bundle.manifest.matmuls if not m.weighted}
    assert reasons == {UNFUSED_REASON}
    own = bundle.manifest.matmuls_of("tensorrt-rtx")
    assert {m.reason for m in own if not m.weighted} == {""}
    assert [m.macs for m in own] == [m.macs for m in bundle.manifest.matmuls]
    executed = _executed(bundle)
    assert executed["tensorrt-rtx"] == {"attention": {"int8"}, "weights": {"int8"}}
    for name in ("onnxruntime", "openvino"):
        assert executed[name]["weights"] == {"int8"}
        assert not executed[name]["attention"] & {"int8", "not found"}


def test_the_graphs_hold_what_the_decisions_say(build_wide: Callable[..., Bundle]) -> None:
    bundle = build_wide("auto")
    pairs = {
        name: sum(n.op_type == "QuantizeLinear" for n in onnx.load(bundle.path / name).graph.node)
        for name in ("model.int8.onnx", OWN)
    }
    assert pairs[OWN] == pairs["model.int8.onnx"] + 4 * LAYERS, "Q, K, V and the weights"


def test_inspect_tells_reasons_by_engine(build_wide: Callable[..., Bundle]) -> None:
    ended = run_here("inspect", build_wide("auto").path)
    assert "  mixed  " in ended.out
    told = f"float in the graph for onnxruntime, openvino, {ATTENTION}: {UNFUSED_REASON}"
    assert told in " ".join(ended.out.split())
    assert "float in the graph, 2: language-model head" in ended.out


def test_float_attention_needs_one_graph(build_wide: Callable[..., Bundle]) -> None:
    bundle = build_wide("float", attention="float")
    assert {e.graph for e in bundle.manifest.engines.values()} == {"model.int8.onnx"}
    assert not (bundle.path / OWN).exists()
    executed = _executed(bundle)
    assert executed["tensorrt-rtx"] == {"attention": {"fp16"}, "weights": {"int8"}}


def test_int8_attention_runs_where_it_is_asked_for(build_wide: Callable[..., Bundle]) -> None:
    bundle = build_wide("int8", attention="int8")
    assert {e.graph for e in bundle.manifest.engines.values()} == {"model.int8.onnx"}
    executed = _executed(bundle)
    assert executed == dict.fromkeys(ENGINES, {"attention": {"int8"}, "weights": {"int8"}})
    cosines = [e.cosine for e in bundle.manifest.engines.values() if e.cosine is not None]
    assert len(cosines) == 2 and min(cosines) > 0.99


def test_the_rest_can_stay_fp32(build_wide: Callable[..., Bundle]) -> None:
    bundle = build_wide("fp32", fp32_rest=True, attention="float")
    assert bundle.manifest.engines["tensorrt-rtx"].rest == "fp32"
    assert _executed(bundle)["tensorrt-rtx"] == {"attention": {"fp32"}, "weights": {"int8"}}


def test_ranges_of_calibrate_serve_every_placement(
    wide: Path, calibration: Path, tmp_path: Path
) -> None:
    ranges = tmp_path / "ranges.safetensors"
    common = ("--calib-data", calibration, "--calib-samples", 16, "--seq-len", 32)
    ended = run_here("calibrate", wide, *common, "-o", ranges)
    assert ended.code == 0, ended.err
    ended = run_here(
        "build", wide, "--int8", *common, "--ranges", ranges, "--engine", "openvino,tensorrt-rtx",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert f"{ATTENTION} of {ATTENTION} attention matmuls carry Q/DQ" in ended.out
    assert "rest FP16" in ended.out
    assert re.search(r"cosine to float [01]\.\d{5}  \[SIMULATED\]", ended.out)


LINEAR = """
linear (float[4, 16] x) => (float[4, 16] y) {
    a = MatMul(x, w)
    b = Mul(a, gain)
    c = Div(b, gain)
    y = MatMul(c, w)
}
"""


def _build_linear(gain: float, folder: Path, *more: object, opset: int = 20) -> Any:
    constants = {"w": normal(0, 16, 16), "gain": np.full(16, gain, np.float32)}
    model: ir.Model = graph_from_text(LINEAR, constants, opset=opset)
    save_model(model, folder / "linear.onnx")
    np.savez(folder / "x.npz", x=normal(1, 32, 16))
    return run_here(
        "build", folder / "linear.onnx", "--int8", "--calib-data", folder / "x.npz", "--batch-size",
        4, "--engine", "tensorrt-rtx", "-o", folder / "out", *more,
    )  # fmt: skip


def test_values_beyond_fp16_are_refused_with_the_way_out(tmp_path: Path) -> None:
    ended = _build_linear(60_000.0, tmp_path)
    ended.refused(7, "FP16 cannot hold 'b'", "pass --fp32-rest")
    ended = _build_linear(60_000.0, tmp_path, "--fp32-rest")
    assert ended.code == 0, ended.err
    assert "2 matmuls in INT8, rest FP32" in ended.out


@pytest.mark.parametrize("opset", [13, 17])
def test_an_old_graph_is_converted_for_fp16_scales(opset: int, tmp_path: Path) -> None:
    ended = _build_linear(2.0, tmp_path, opset=opset)
    assert ended.code == 0, ended.err
    assert "2 matmuls in INT8, rest FP16" in ended.out
