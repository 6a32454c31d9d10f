"""``deploy inspect`` of graphs from anywhere, and ``deploy compare``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from deploy.bundle import Bundle
from tests.deploy.misplaced import Encoder
from tests.deploy.running import run_here

ENCODER = Encoder(layers=2, special={"layer.1.up": "channels", "layer.0.key": "output"})
SHAPES = "x:2x16x64"
WIDTH = 100


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with two layers placed wrongly."""
    return ENCODER.write(tmp_path_factory.mktemp("graph") / "encoder.onnx")


def test_the_text_fits_and_tells_all(graph: Path) -> None:
    ended = run_here("inspect", graph, "--engine", "openvino,onnxruntime", "--shapes", SHAPES)
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    text = " ".join(ended.out.split())
    assert "openvino: refuses the graph because of layer.1.up: a scale per channel" in text
    assert "SIMULATED: carries Q/DQ but runs in fp32: layer.0.key only its output carries" in text
    assert "SIMULATED: carries Q/DQ but runs in fp32: layer.1.up its activation has a" in text
    assert "Q/DQ on their own: " in text and " MiB read and written" in text
    assert lines[-1] == f"shapes: {SHAPES}"
    row = next(line for line in lines if line.startswith("layer.0.key "))
    assert row.split() == ["layer.0.key", "5.9%", "float", "refused", "fp32"]


def test_the_json_is_complete(graph: Path) -> None:
    ended = run_here(
        "inspect", graph, "--engine", "onnxruntime", "--shapes", SHAPES, "--profile", "--json"
    )
    (audit,) = ended.json
    macs = ENCODER.macs()
    wrong = {"layer.1.up", "layer.0.key"} | {n for n in macs if "scores" in n or "context" in n}
    by_hand = 1 - sum(macs[n] for n in wrong) / sum(macs.values())
    assert audit["int8_mac_coverage"] == pytest.approx(by_hand)
    assert {m["matmul"]: m["macs"] for m in audit["matmuls"]} == macs
    assert {m["matmul"] for m in audit["matmuls"] if m["why"]} == {"layer.1.up", "layer.0.key"}
    assert all(m["time_ns"] > 0 and m["kernel"] for m in audit["matmuls"])
    assert audit["profile"]["shapes"] == {"x": [2, 16, 64]}
    assert audit["profile"]["kind"] == "MEASURED"
    whole = sum(k["time_ns"] or 0 for k in audit["kernels"])
    assert audit["profile"]["time_ns"] == pytest.approx(whole)
    int8 = sum(k["time_ns"] for k in audit["kernels"] if k["precision"] == "int8")
    assert audit["int8_time_share"] == pytest.approx(int8 / whole)
    assert len(audit["attentions"]) == 2 and not any(a["fused"] for a in audit["attentions"])


@pytest.mark.parametrize(("least", "code"), [(0.5, 0), (0.9, 1)])
def test_the_gate(graph: Path, least: float, code: int) -> None:
    line = ("inspect", graph, "--engine", "onnxruntime", "--shapes", SHAPES)
    ended = run_here(*line, "--fail-under", least)
    assert ended.code == code
    assert ("onnxruntime: coverage" in ended.err) == bool(code)


def test_a_refused_graph_passes_no_gate(graph: Path) -> None:
    line = ("inspect", graph, "--engine", "openvino", "--shapes", SHAPES)
    ended = run_here(*line, "--fail-under", 0)
    assert ended.code == 0
    ended = run_here(*line, "--fail-under", 0.1)
    assert ended.code == 1
    assert "openvino: coverage refused is below 10 %" in ended.err


def test_bad_options(graph: Path, bundle: Bundle) -> None:
    run_here("inspect", graph, "--fail-under", 95).refused(2, "95 is no share", "0.95")
    run_here("inspect", graph, "--shapes", "x=2").refused(2, "'x=2' names no shape")
    run_here("inspect", graph, "--shapes", "y:2").refused(2, "no input 'y'", "choose from: x")
    run_here("inspect", graph, "--shapes", "x:2x16x65").refused(2, "the graph has ?x?x64")
    run_here("inspect", graph, "--engine", "openvno").refused(3, "openvino")
    run_here("inspect", bundle.path, "--shapes", SHAPES).refused(2, "--shapes is for a graph")


def test_files_that_are_no_graph(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    run_here("inspect", tmp_path / "text.onnx").refused(5, "not a whole ONNX file")
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])
    relu = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(relu), tmp_path / "relu.onnx")
    run_here("inspect", tmp_path / "relu.onnx").refused(5, "holds no MatMul, Gemm, Conv")


class Reader:
    """Calibration data for ONNX Runtime's own quantizer."""

    def __init__(self, encoder: Encoder) -> None:
        draw = np.random.default_rng(0)
        self._left = iter([draw.standard_normal(encoder.shape).astype(np.float32)] * 2)

    def get_next(self) -> dict[str, np.ndarray] | None:
        array = next(self._left, None)
        return None if array is None else {"x": array}


@pytest.fixture(scope="module", params=["MatMul", "Gemm"])
def of_onnxruntime(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """What ``quantize_static`` makes of a float encoder with its defaults."""
    from onnxruntime.quantization import quantize_static

    folder = tmp_path_factory.mktemp("quantize_static")
    encoder = Encoder(placing="none", operator=request.param)
    source = encoder.write(folder / "float.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(str(source), str(folder / "int8.onnx"), Reader(encoder))
    yield folder / "int8.onnx"


def test_onnx_runtimes_own_default(of_onnxruntime: Path) -> None:
    ended = run_here("inspect", of_onnxruntime, "--shapes", SHAPES, "--json")
    assert ended.code == 0, ended.err
    audits: dict[str, Any] = {a["engine"]: a for a in ended.json}
    assert audits["onnxruntime"]["int8_mac_coverage"] == 1
    macs, scores = Encoder().macs(), ("layer.0.scores", "layer.0.context")
    share = 1 - sum(macs[n] for n in scores) / sum(macs.values())
    assert audits["openvino"]["int8_mac_coverage"] == pytest.approx(share)
    missed = {m["matmul"]: m["why"] for m in audits["openvino"]["matmuls"] if m["why"]}
    assert set(missed) == set(scores)
    assert all("zero point other than 0" in why for why in missed.values())
    if "tensorrt-rtx" in audits:
        notes = audits["tensorrt-rtx"]["notes"]
        assert audits["tensorrt-rtx"]["refused"] and notes
        gemm = any("Gemm" in n.op_type for n in onnx.load(of_onnxruntime).graph.node)
        assert any("INT32 bias" in note for note in notes) == gemm
        assert any("symmetrically only" in note for note in notes)


def test_a_bundle_is_profiled_on_its_golden_inputs(bundle: Bundle) -> None:
    ended = run_here("inspect", bundle.path, "--engine", "openvino", "--profile")
    assert ended.code == 0, ended.err
    assert max(map(len, ended.out.splitlines())) <= WIDTH
    assert "kernels: " in ended.out and "of that time in INT8 kernels" in ended.out
    assert "attention: 2 fused into one kernel each (fp32" in ended.out
    row = next(r for r in ended.out.splitlines() if "intermediate.dense" in r)
    assert row.split()[-1] == "ms" and float(row.split()[-2]) > 0


def test_two_engines_side_by_side(bundle: Bundle) -> None:
    sides = (f"{bundle.path}@openvino", f"{bundle.path}@onnxruntime")
    ended = run_here("compare", *sides, "--layers")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[0].startswith("A: ") and "@openvino:int8  [MEASURED]" in lines[0]
    rows = [line for line in lines if "intermediate.dense" in line]
    assert len(rows) == 2 and all(row.split().count("int8") == 2 for row in rows)
    assert any(line.startswith("0 of ") for line in lines)
    assert sum("of MACs in INT8" in line for line in lines) == 2


def test_float_and_int8_of_one_engine_differ_where_int8_is(bundle: Bundle) -> None:
    sides = (f"{bundle.path}@onnxruntime", f"{bundle.path}@onnxruntime:float-fp32")
    ended = run_here("compare", *sides, "--layers", "--json")
    first, second = ended.json
    assert [s["side"].split("@")[1] for s in (first, second)] == [
        "onnxruntime:int8",
        "onnxruntime:float-fp32",
    ]
    assert {m["executed"] for m in second["matmuls"]} == {"fp32"}
    assert not any(m["why"] for m in second["matmuls"])
    assert all(m["time_ns"] > 0 for s in (first, second) for m in s["matmuls"])
    text = run_here("compare", *sides, "--layers").out
    differing = sum(m["executed"] == "int8" for m in first["matmuls"])
    assert f"{differing} of {len(first['matmuls'])} run in another precision" in text
    assert text.count(" ≠ ") == differing


def test_comparisons_that_are_none(bundle: Bundle, planted: Bundle) -> None:
    path = bundle.path
    run_here("compare", path, "--layers").refused(2, "1 sides given", "two")
    run_here("compare", path, f"{path}@torch", "--layers").refused(3, "no engine 'torch'")
    message = run_here("compare", path, f"{path}@openvino:float-fp12", "--layers").refused(3)
    assert "no configuration 'float-fp12'" in message and "float-fp32" in message
    run_here("compare", path, path / "none", "--layers").refused(9, "no bundle at")
    ended = run_here("compare", path, planted.path, "--layers")
    assert ended.code == 0, ended.err


def test_what_the_library_makes_of_the_file_itself_is_told(bundle: Bundle) -> None:
    line = ("inspect", bundle.int8_graph, "--engine", "onnxruntime", "--shapes", "input_ids:4x16")
    ended = run_here(*line)
    assert ended.code == 0, ended.err
    text = " ".join(ended.out.split())
    assert "note: opened as it stands, the graph runs " in text
    assert "shapes: input_ids:4x16,attention_mask:4x16,token_type_ids:4x16" in text
