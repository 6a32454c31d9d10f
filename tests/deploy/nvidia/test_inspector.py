"""Engine inspector JSON in the spellings of TensorRT 10 and 11."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deploy.nvidia.inspector import engine_kernels

OLD_INT8 = "Thirty-two wide channel vectorized row major Int8 format"
OLD_HALF = "Row major linear FP16 format"
FLOATS = {"Half": "fp16", "Float": "fp32", "BFloat16": "bf16", "FP16": "fp16", "FP32": "fp32"}


def tensor(kind: str, spelling: str, *shape: int) -> dict[str, Any]:
    if spelling == "Format/Datatype":
        return {"Name": "t", "Dimensions": list(shape), spelling: kind}
    return {"Name": "t", "Dimensions": list(shape), "Format": "Linear", spelling: kind}


def layer(name: str, kind: str, inputs: list[Any], **more: Any) -> dict[str, Any]:
    output = [tensor("Half", "Datatype", 8, 64)]
    return {"Name": name, "LayerType": kind, "Inputs": inputs, "Outputs": output, **more}


def only(entry: dict[str, Any], *matmuls: str) -> Any:
    (kernel,) = engine_kernels(json.dumps({"Layers": [entry], "Bindings": ["x"]}), matmuls)
    return kernel


@pytest.mark.parametrize("spelling", ["Format/Datatype", "Datatype", "DataType"])
@pytest.mark.parametrize("weights", [True, False])
def test_a_matmul_is_int8_only_if_both_operands_are(spelling: str, weights: bool) -> None:
    for first, second, executed in (
        ("Int8", "Int8", "int8"),
        ("Int8", "Half", "fp16"),
        ("Half", "Int8", "fp16"),
        ("Float", "Float", "fp32"),
    ):
        inputs = [tensor(first, spelling, 8, 64)]
        more: dict[str, Any] = {"TacticName": "sm80_xmma_gemm_i8i8_i8i32_f32"}
        if weights:
            more["Weights"] = {"Type": second, "Count": 4096}
        else:
            inputs.append(tensor(second, spelling, 64, 64))
        found = only(layer("up + bias", "gemm", inputs, **more), "up", "down")
        assert (found.kind, found.precision, found.matmuls) == ("matmul", executed, ("up",))
        assert found.implementation == "sm80_xmma_gemm_i8i8_i8i32_f32"


def test_an_operand_that_is_told_nowhere_is_never_called_int8() -> None:
    found = only(layer("up", "gemm", [tensor("Int8", "Datatype", 8, 64)]), "up")
    assert found.precision == ""


@pytest.mark.parametrize(("text", "name"), FLOATS.items())
def test_types_by_every_name(text: str, name: str) -> None:
    inputs = [tensor(text, "Datatype", 8, 64)] * 2
    assert only(layer("__myl_FcAdd_myl0_3", "gemm", inputs)).precision == name


def test_types_in_the_sentences_of_tensorrt_10() -> None:
    inputs = [tensor(OLD_INT8, "Format/Datatype", 8, 64)] * 2
    assert only(layer("a", "CaskGemmMatrixMultiply", inputs)).precision == "int8"
    inputs[1] = tensor(OLD_HALF, "Format/Datatype", 8, 64)
    assert only(layer("a", "CaskGemmMatrixMultiply", inputs)).precision == "fp16"


def test_a_fused_attention_covers_both_matmuls_and_needs_three_int8_operands() -> None:
    told = "[ONNX Layer: a/scores]\x1e[ONNX Layer: a/softmax]\x1e[ONNX Layer: a/output]"
    names = ("a/scores", "a/output", "b/scores")
    for kinds, executed in (
        (["Int8"] * 3, "int8"),
        (["Int8", "Int8", "Half"], "fp16"),
        (["Int8", "Int8", "Int8", "Half"], "int8"),
    ):
        inputs = [tensor(k, "Datatype", 2, 4, 8, 32) for k in kinds]
        found = only(layer("_gemm_mha_v2_0x1", "kgen", inputs, Metadata=told), *names)
        assert (found.kind, found.precision) == ("attention", executed)
        assert found.matmuls == ("a/scores", "a/output")


@pytest.mark.parametrize(
    ("name", "kind", "parameter", "expected"),
    [
        ("__myl_FcAddMulErf_myl0_3", "kgen", "", "matmul"),
        ("__myl_MulMinMaxRounCast_myl0_1", "kgen", "", "pointwise"),
        ("__myl_MeanSubMul_myl0_1", "kgen", "", "normalization"),
        ("conv1", "CaskConvolution", "Convolution", "convolution"),
        ("Reformatting CopyNode for Input Tensor 0", "Reformat", "", "reformat"),
        ("q", "Scale", "Scale", "quantize"),
        ("softmax", "CaskSoftMaxV2", "SoftMax", "softmax"),
        ("PWN(gelu)", "PointWiseV2", "PointWise", "pointwise"),
        ("what", "Gather", "Gather", "other"),
    ],
)
def test_kinds(name: str, kind: str, parameter: str, expected: str) -> None:
    found = only(layer(name, kind, [], ParameterType=parameter))
    assert found.kind == expected
    assert found.precision == ""


def test_what_moves_data_tells_its_bytes() -> None:
    moved = layer("Reformatting CopyNode", "Reformat", [tensor("Int8", "Datatype", 8, 64)])
    assert only(moved).bytes == 8 * 64 + 2 * 8 * 64
    moved["Inputs"][0]["Dimensions"] = [-1, 64]
    assert only(moved).bytes is None
    assert only(layer("up", "gemm", [tensor("Int8", "Datatype", 8, 64)] * 2)).bytes is None


def test_an_engine_without_details_gives_names() -> None:
    found = engine_kernels(json.dumps({"Layers": ["up + bias", "q"]}), ("up",))
    assert [(k.name, k.kind, k.matmuls) for k in found] == [
        ("up + bias", "other", ()),
        ("q", "other", ()),
    ]
