"""What TensorRT-RTX makes of each attention variant: no Q/DQ, on the weights, on attention too.

Every row is exported, placed, quantized and compiled here; the kernels are read from the plan.
"""

from __future__ import annotations

import collections
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from attention.variants import VARIANTS
from calib.collector import operand_shapes
from calib.placement import (
    ATTENTION_REASON,
    CLIPPED_REASON,
    SHARED_REASON,
    SINGLE_REASON,
    Extent,
    Mode,
    Placement,
    judge_attentions,
    place_qdq,
)
from calib.qdq import insert_qdq
from calib.schemes import Range, params_of_range
from deploy.engines import ENGINES
from deploy.kernels import executed_precisions
from deploy.nvidia.engine import FILE
from deploy.nvidia.plan_text import plan_operations
from deploy.sessions import BuildRequest, Configuration, Running
from export.attentions import UNBOUNDED, find_attentions, static_shapes
from export.initializers import add_initializer
from export.matmuls import find_matmuls
from export.onnx_file import save_model
from export.passes.pad_heads import PadHeads
from export.passes.to_half import ToHalf
from tests.export.attention_graphs import Block, exported, exported_subtracting
from tests.export.graphs import graph_from_text, normal
from trueint8.errors import BuildError
from trueint8.progress import Silence

ENGINE = ENGINES.load("tensorrt-rtx")
pytest.importorskip("tensorrt_rtx")


COLUMNS: dict[str, Mode | None] = {"none": None, "weights": "float", "attention": "auto"}
RUNS_IN = {"none": ("fp16", "fp16"), "weights": ("int8", "fp16"), "attention": ("int8", "int8")}
"""GEMMs and attention, where the attention is fused."""

HALF, INT8 = ["mha_v2 fp16"], ["mha_v2 int8"]
UNFUSED_HALF = {"int8": 4, "fp16": 2}


def quantized(
    data: bytes, block: Block, scratch: Path, mode: Mode | None, longest: int = 512
) -> tuple[ir.Model, Placement]:
    """Place and insert Q/DQ; ``mode`` None leaves the graph in float."""
    model = ir.from_proto(onnx.load_from_string(data))
    rows = {k: v[: None if block.static else 1] for k, v in block.inputs().items()}
    shapes = operand_shapes(model, rows)
    placement = Placement([])
    if mode is not None:
        extent = Extent(shapes, longest, static_shapes(model))
        judged = judge_attentions(find_attentions(model), ENGINE.placement, extent, mode)
        matmuls = find_matmuls(model, modules_named=True)
        placement = place_qdq(matmuls, quantize_head=True, attentions=judged)
        params = {t: params_of_range(t, Range(-3.0, 3.0)) for t in placement.tensors}
        insert_qdq(model, placement, params)
    PadHeads(shapes)(model)
    return model, placement


def compiled(model: ir.Model, folder: Path, longest: int = 512) -> Path:
    """Build the plan and return its folder."""
    save_model(model, folder / "model.onnx")
    shapes = {str(v.name): ((1, 1), (2, 16), (8, longest)) for v in model.graph.inputs}
    ENGINE.build(BuildRequest(folder / "model.onnx", folder, shapes, Silence()))
    return folder


def executed(folder: Path, matmuls: dict[str, str]) -> dict[str, str]:
    """Return the audit's word on each matmul."""
    found = ENGINE.audit(folder, Configuration("int8", "fp16"), Running(1), matmuls)
    return executed_precisions(found, matmuls)


def kernels(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Return GEMMs by precision, and the fused attentions with theirs."""
    found = plan_operations((folder / FILE).read_bytes())
    fused = [f"{o.name.removeprefix('_gemm_')} {o.precision}" for o in found if o.fused_attention]
    gemms = [o for o in found if o.precision and not o.fused_attention]
    return dict(collections.Counter(o.precision for o in gemms)), sorted(fused)


def built(block: Block, column: str, folder: Path, *, longest: int = 512) -> tuple[Path, Placement]:
    """Export, place, quantize and compile one cell of the table."""
    model, placement = quantized(exported(block), block, folder, COLUMNS[column], longest)
    ToHalf()(model)
    return compiled(model, folder, longest), placement


def check_row(block: Block, folder: Path, kernel: str, count: int = 1, gemms: int = 4) -> Placement:
    """Check a row of the table whose attention is always fused; return the last placement."""
    for column, (gemm, attention) in RUNS_IN.items():
        plan, placement = built(block, column, folder)
        assert kernels(plan) == ({gemm: gemms}, count * [f"{kernel} {attention}"]), column
        assert len(placement.attentions) == count * (column == "attention")
    return placement


FUSED = {
    "vanilla": Block("vanilla"),
    "vanilla, 16 wide": Block("vanilla", width=16),
    "vanilla, 64 wide": Block("vanilla", width=64),
    "vanilla, decoder with grouped keys": Block("vanilla", heads=4, decoder=True),
    "gated-linear": Block("gated-linear"),
    "gated-all-heads": Block("gated-all-heads"),
    "gated-output": Block("gated-output"),
}


@pytest.mark.parametrize("name", FUSED)
def test_one_kernel_for_the_attention_in_half_and_in_int8(name: str, tmp_path: Path) -> None:
    placement = check_row(FUSED[name], tmp_path, "mha_v2")
    assert len(placement.outputs) == name.startswith("gated")


def test_a_gate_of_two_layers_has_a_matmul_of_its_own(tmp_path: Path) -> None:
    """Q, K, V and the gate's first layer read one input and are one kernel; its second is one."""
    assert len(check_row(Block("gated-mlp"), tmp_path, "mha_v2", gemms=5).outputs) == 1


@pytest.mark.parametrize("variant", VARIANTS.names())
def test_no_variant_is_fused_in_fp32(variant: str, tmp_path: Path) -> None:
    block = Block(variant)
    model, _ = quantized(exported(block), block, tmp_path, None)
    gemms, fused = kernels(compiled(model, tmp_path))
    assert set(gemms) == {"fp32"} and gemms["fp32"] >= 6
    assert fused == []


@pytest.mark.parametrize("variant", ["differential", "differential-v2"])
def test_a_difference_of_attentions_is_two_kernels(variant: str, tmp_path: Path) -> None:
    """Padded to the width of the values, where the values are wider than the queries."""
    block = Block(variant, heads=4, width=16 if variant == "differential" else 32)
    assert len(check_row(block, tmp_path, "mha_v2", count=2).outputs) == 2


def test_a_product_of_signed_weights_stays_in_float(tmp_path: Path) -> None:
    block = Block("differential-v2")
    model, placement = quantized(exported_subtracting(block), block, tmp_path, "int8")
    assert {s.reason for s in placement.sites if s.matmul.weight is None} == {
        UNBOUNDED,
        ATTENTION_REASON,
    }
    ToHalf()(model)
    assert kernels(compiled(model, tmp_path)) == ({"int8": 4, "fp16": 3}, [])


@pytest.mark.parametrize("variant", ["clipped", "normalized-clipped"])
def test_clipped_softmax_with_dynamic_shapes_is_not_fused(variant: str, tmp_path: Path) -> None:
    block = Block(variant, width=64)
    assert kernels(built(block, "none", tmp_path)[0]) == ({"fp16": 6}, [])
    folder, placement = built(block, "attention", tmp_path)
    assert kernels(folder) == (UNFUSED_HALF, [])
    assert CLIPPED_REASON in {s.reason for s in placement.sites}
    model, _ = quantized(exported(block), block, tmp_path, "int8")
    ToHalf()(model)
    assert kernels(compiled(model, tmp_path)) == ({"int8": 6}, [])


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("variant", ["clipped", "normalized-clipped"])
def test_clipped_softmax_with_static_shapes_is_fused(
    variant: str, masked: bool, tmp_path: Path
) -> None:
    block = Block(variant, width=64, static=True, masked=masked)
    assert len(check_row(block, tmp_path, "mha_v1").outputs) == 1


def test_clipped_softmax_of_narrow_heads_stays_in_half(tmp_path: Path) -> None:
    folder, placement = built(Block("clipped", static=True), "attention", tmp_path)
    assert kernels(folder) == ({"int8": 4}, ["mha_v1 fp16"])
    reasons = {s.reason for s in placement.sites} - {""}
    assert reasons == {"INT8 attention is fused for heads of 64; these are 32 wide"}


def test_a_clipped_core_in_half_is_what_the_compiler_refuses(tmp_path: Path) -> None:
    """The FP32 core of ToHalf is there for this; the day it compiles, it can go."""
    block = Block("clipped", width=64, static=True, masked=False)
    model, _ = quantized(exported(block), block, tmp_path, "auto")
    (ids,) = model.graph.inputs
    fixed = ids.shape
    ids.shape = ir.Shape(["batch", 16])
    ToHalf()(model)
    ids.shape = fixed
    with pytest.raises(BuildError, match="mha_fusion"):
        compiled(model, tmp_path)


@pytest.mark.parametrize("variant", ["softmax1", "learned-sink"])
def test_an_attention_whose_scores_are_read_elsewhere_is_not_fused(
    variant: str, tmp_path: Path
) -> None:
    assert kernels(built(Block(variant), "none", tmp_path)[0]) == ({"fp16": 6}, [])
    folder, placement = built(Block(variant), "attention", tmp_path)
    assert kernels(folder) == (UNFUSED_HALF, [])
    assert SHARED_REASON in {s.reason for s in placement.sites}


def test_a_single_head_is_not_fused(tmp_path: Path) -> None:
    folder, placement = built(Block("vanilla", heads=1), "attention", tmp_path)
    assert kernels(folder) == (UNFUSED_HALF, [])
    assert {s.reason for s in placement.sites} - {""} == {SINGLE_REASON}


@pytest.mark.parametrize(
    ("width", "longest", "reason"),
    [
        (40, 512, "INT8 attention is fused for heads of 16, 32, 64; these are 40 wide"),
        (128, 512, "INT8 attention is fused for heads of 16, 32, 64; these are 128 wide"),
        (32, 513, "INT8 attention is fused up to 512 tokens; here are 513"),
    ],
)
def test_what_is_not_fused_in_int8_is_one_kernel_in_half(
    width: int, longest: int, reason: str, tmp_path: Path
) -> None:
    block = Block("vanilla", width=width)
    folder, placement = built(block, "attention", tmp_path, longest=longest)
    assert kernels(folder) == ({"int8": 4}, HALF)
    assert {s.reason for s in placement.sites} - {""} == {reason}
    model, _ = quantized(exported(block), block, tmp_path, "int8", longest)
    ToHalf()(model)
    assert kernels(compiled(model, tmp_path, longest)) == ({"int8": 6}, []), "loose matmuls"


def test_float_attention_of_a_graph_in_fp32_is_not_fused(tmp_path: Path) -> None:
    block = Block("vanilla")
    model, _ = quantized(exported(block), block, tmp_path, "float")
    assert kernels(compiled(model, tmp_path)) == ({"int8": 4, "fp32": 2}, [])
    model, _ = quantized(exported(block), block, tmp_path, "auto")
    assert kernels(compiled(model, tmp_path)) == ({"int8": 4}, INT8)


def test_a_gate_without_qdq_before_it_unfuses_the_attention(tmp_path: Path) -> None:
    block = Block("gated-linear")
    model, placement = quantized(exported(block), block, tmp_path, "auto")
    (output,) = placement.outputs
    nodes = {node.name: node for node in model.graph}
    pair = nodes[f"{output}/DequantizeLinear"].outputs[0]
    pair.replace_all_uses_with(_required(nodes[f"{output}/QuantizeLinear"].inputs[0]))
    ToHalf()(model)
    assert kernels(compiled(model, tmp_path)) == ({"int8": 6}, [])


def test_an_fp32_scale_in_a_half_graph_does_not_parse(tmp_path: Path) -> None:
    block = Block("vanilla")
    model, _ = quantized(exported(block), block, tmp_path, "auto")
    ToHalf()(model)
    pair = [n for n in model.graph if str(n.name).startswith("layer_norm/")]
    assert len(pair) == 2
    scale = add_initializer(model.graph, "single", np.asarray(0.01, np.float32))
    for node in pair:
        node.replace_input_with(1, scale)
    with pytest.raises(BuildError, match="Float and Half|must have same"):
        compiled(model, tmp_path)


def _required(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value


LINEAR = """
linear (float[batch, t, 64] x) => (float[batch, t, 64] y) {{
    {pairs}
    [up] u = MatMul({a}, {b})
    y = Relu(u)
}}
"""
X_PAIR = """
    x_q = QuantizeLinear<axis=2>(x, {s}, {z})
    x_d = DequantizeLinear<axis=2>(x_q, {s}, {z})
"""
WEIGHT = "    w_d = DequantizeLinear<axis=1>(w_q, w_s, w_z)"
SIMULATED = {
    "per-channel activations": LINEAR.format(
        pairs=X_PAIR.format(s="channel_s", z="channel_z") + WEIGHT, a="x_d", b="w_d"
    ),
    "activations without weights": LINEAR.format(
        pairs=X_PAIR.format(s="tensor_s", z="tensor_z"), a="x_d", b="w"
    ),
    "weights without activations": LINEAR.format(pairs=WEIGHT, a="x", b="w_d"),
}
CONSTANTS: dict[str, np.ndarray] = {
    "w": normal(0, 64, 64),
    "w_q": np.ones((64, 64), np.int8),
    "w_s": np.full(64, 0.02, np.float32),
    "w_z": np.zeros(64, np.int8),
    "tensor_s": np.asarray(0.02, np.float32),
    "tensor_z": np.asarray(0, np.int8),
    "channel_s": np.linspace(0.01, 0.02, 64, dtype=np.float32),
    "channel_z": np.zeros(64, np.int8),
}


@pytest.mark.parametrize("name", SIMULATED)
def test_silent_simulation_is_not_taken_for_int8(name: str, tmp_path: Path) -> None:
    """These build without a warning and multiply floats; this project writes none of them."""
    used = {k: v for k, v in CONSTANTS.items() if re.search(rf"\b{k}\b", SIMULATED[name])}
    save_model(graph_from_text(SIMULATED[name], used), tmp_path / "model.onnx")
    shapes = {"x": ((1, 1, 64), (2, 16, 64), (4, 32, 64))}
    ENGINE.build(BuildRequest(tmp_path / "model.onnx", tmp_path, shapes, Silence()))
    assert executed(tmp_path, {"up": ""})["up"] == "fp32"


def test_the_attention_operator_runs_in_half_whatever_surrounds_it(tmp_path: Path) -> None:
    text = """fused (float[batch, 2, t, 32] x) => (float[batch, 2, t, 32] y) {
        x_q = QuantizeLinear(x, s, z)
        x_d = DequantizeLinear(x_q, s, z)
        [whole] o = Attention(x_d, x_d, x_d)
        o_q = QuantizeLinear(o, s, z)
        y = DequantizeLinear(o_q, s, z)
    }"""
    constants: dict[str, np.ndarray] = {
        "s": np.asarray(0.02, np.float32),
        "z": np.asarray(0, np.int8),
    }
    model = graph_from_text(text, constants, opset=23)
    ToHalf()(model)
    save_model(model, tmp_path / "model.onnx")
    shapes = {"x": ((1, 2, 1, 32), (2, 2, 16, 32), (4, 2, 32, 32))}
    ENGINE.build(BuildRequest(tmp_path / "model.onnx", tmp_path, shapes, Silence()))
    assert executed(tmp_path, {"whole": ""})["whole"] == "fp16"


@pytest.mark.parametrize("name", ["vanilla", "gated-output", "softmax1", "differential"])
def test_the_audit_knows_every_matmul_of_every_plan(name: str, tmp_path: Path) -> None:
    block = Block(name, heads=4, width=16 if name == "differential" else 32)
    folder, placement = built(block, "attention", tmp_path)
    found = executed(folder, {s.matmul.name: "" for s in placement.sites})
    assert found == {s.matmul.name: "fp16" if s.reason else "int8" for s in placement.sites}
