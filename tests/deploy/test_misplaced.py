"""Graphs in which Q/DQ was deliberately misplaced: found, counted right, and told why.

The INT8 share of each is counted by hand from which products must run in INT8 where.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

from deploy.audit import REFUSED, Audit
from deploy.audit_reasons import (
    ACTIVATION_ONLY,
    CHANNELS,
    INSIDE_ATTENTION,
    OUTPUT_ONLY,
    WEIGHT_ONLY,
)
from deploy.engines import ENGINES
from deploy.examining import examine, examine_apart
from deploy.graph_audit import audit_graph, read_graph
from deploy.kernels import FUSED
from tests.deploy.misplaced import LINEARS, Encoder, Placing
from tests.export.graphs import proto_from_text
from trueint8.errors import MissingDependency
from trueint8.progress import Silence

NAMES = ("onnxruntime", "openvino", "tensorrt-rtx")
Where = Literal["int8", "float", "refused"]


@cache
def _missing(name: str) -> str:
    try:
        ENGINES.load(name).version()
    except MissingDependency as err:
        return err.problem
    return ""


def audited(encoder: Encoder, name: str, folder: Path) -> Audit:
    """Write an encoder, in FP16 for TensorRT, and audit it on one engine."""
    if _missing(name):
        pytest.skip(_missing(name))
    encoder = replace(encoder, half=name.startswith("tensorrt"))
    found = read_graph(encoder.write(folder / "graph.onnx"), {"x": encoder.shape})
    assert {p.name: p.macs for p in found.subject.products} == encoder.macs()
    (audit,) = audit_graph(found, [name], Silence(), ask=examine)
    return audit


def check(audit: Audit, encoder: Encoder, floats: set[str]) -> None:
    """Compare an audit with a hand count: all but ``floats`` run in INT8."""
    executed = {line.matmul: line.executed for line in audit.lines}
    assert {name for name, p in executed.items() if p != "int8"} == floats
    assert {executed[name] for name in floats} <= {"fp32", "fp16"}
    macs = encoder.macs()
    by_hand = sum(n for name, n in macs.items() if name not in floats) / sum(macs.values())
    coverage = audit.coverage()
    assert coverage is not None and coverage.share == pytest.approx(by_hand, abs=1e-12)


def attention(encoder: Encoder) -> set[str]:
    """Return the products of activations of an encoder."""
    return {f"layer.{i}.{part}" for i in range(encoder.layers) for part in ("scores", "context")}


def linears(encoder: Encoder) -> set[str]:
    """Return the linear layers of an encoder."""
    return {f"layer.{i}.{name}" for i in range(encoder.layers) for name in LINEARS}


@dataclass(frozen=True, slots=True)
class Case:
    """A placement, what runs where, and the words that must say why."""

    placing: Placing
    where: Mapping[str, Where]
    why: Mapping[str, str] = field(default_factory=dict)


def everywhere(where: Where, why: str = "") -> tuple[dict[str, Where], dict[str, str]]:
    """Return the same for every engine."""
    return dict.fromkeys(NAMES, where), dict.fromkeys(NAMES, why)


CASES = {
    "per-channel activations": Case(
        "channels",
        {"onnxruntime": "float", "openvino": "refused", "tensorrt-rtx": "float"},
        {
            "onnxruntime": CHANNELS.format(engine="ONNX Runtime"),
            "openvino": "a scale per channel on an activation: OpenVINO rounds per tensor only",
            "tensorrt-rtx": CHANNELS.format(engine="TensorRT-RTX"),
        },
    ),
    "activation without weight": Case("activation", *everywhere("float", ACTIVATION_ONLY)),
    "outputs only": Case("output", *everywhere("float", OUTPUT_ONLY)),
    "INT32 bias": Case(
        "bias",
        {"onnxruntime": "int8", "openvino": "int8", "tensorrt-rtx": "refused"},
        {"tensorrt-rtx": "TensorRT dequantizes no INT32; keep biases in float"},
    ),
    "unsigned activations": Case("unsigned", *everywhere("int8")),
    "unsigned, shifted": Case(
        "unsigned-shifted",
        {"onnxruntime": "int8", "openvino": "int8", "tensorrt-rtx": "refused"},
        {"tensorrt-rtx": "TensorRT quantizes symmetrically only"},
    ),
    "weights only": Case("weight", *everywhere("float", WEIGHT_ONLY)),
    "well placed": Case("both", *everywhere("int8")),
}
SHAPES = {
    "one small layer": Encoder(),
    "all of three layers": Encoder(layers=3, width=128, heads=4, tokens=24, batch=1),
}


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", SHAPES)
def test_a_misplaced_graph(size: str, name: str, engine: str, tmp_path: Path) -> None:
    case, encoder = CASES[name], replace(SHAPES[size], placing=CASES[name].placing)
    audit = audited(encoder, engine, tmp_path)
    where, why = case.where[engine], case.why.get(engine, "")
    if where == "refused":
        assert audit.refused and audit.coverage() is None
        assert {line.executed for line in audit.lines} == {REFUSED}
        count = len(linears(encoder))
        (note,) = audit.notes
        assert note.startswith(f"layer.0.query and {count - 1} more: ") and why in note
        return
    wrong = linears(encoder) if where == "float" else set()
    check(audit, encoder, attention(encoder) | wrong)
    assert {line.matmul for line in audit.missed()} == wrong
    assert all(line.why.startswith(why) and line.why for line in audit.missed())


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize(
    "special",
    [
        {"layer.1.up": "channels"},
        {"layer.0.down": "activation", "layer.1.query": "activation"},
        {"layer.0.up": "output", "layer.1.output": "weight"},
        {"layer.1.key": "none"},
    ],
)
def test_one_wrong_layer_in_an_encoder(
    special: dict[str, Placing], engine: str, tmp_path: Path
) -> None:
    encoder = Encoder(layers=2, width=96, heads=3, tokens=20, special=special)
    audit = audited(encoder, engine, tmp_path)
    if engine == "openvino" and "channels" in special.values():
        assert audit.notes[0].startswith("layer.1.up: a scale per channel")
        return
    check(audit, encoder, attention(encoder) | set(special))
    told = {line.matmul for line in audit.missed()}
    assert told == {name for name, placing in special.items() if placing != "none"}


@pytest.mark.parametrize("engine", NAMES)
def test_an_unsigned_activation_computes_other_numbers_in_tensorrt(
    engine: str, tmp_path: Path
) -> None:
    encoder = Encoder(special={"layer.0.up": "unsigned"})
    notes = audited(encoder, engine, tmp_path).notes
    assert bool(notes) == engine.startswith("tensorrt")
    assert all(
        note.startswith("layer.0.up: uint8 with zero point 0 becomes int8") for note in notes
    )


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("tokens", [64, 512, 513])
def test_attention_beyond_512_tokens(tokens: int, engine: str, tmp_path: Path) -> None:
    encoder = Encoder(attention=True, tokens=tokens, batch=1)
    audit = audited(encoder, engine, tmp_path)
    check(audit, encoder, set())
    (line,) = audit.attentions
    assert line.matmuls == ("layer.0.scores", "layer.0.context")
    fuses = {"openvino": True, "onnxruntime": False, "tensorrt-rtx": tokens <= 512}
    assert (line.fused, line.executed) == (fuses[engine], "int8")
    if engine == "tensorrt-rtx" and tokens > 512:
        assert "up to 512 tokens and must accept 513 here: two loose matmuls" in line.why
    assert bool(line.why) == (not line.fused)


@pytest.mark.parametrize(("engine", "fused"), [("openvino", True), ("onnxruntime", False)])
def test_float_attention(engine: str, fused: bool, tmp_path: Path) -> None:
    (line,) = audited(Encoder(placing="none"), engine, tmp_path).attentions
    assert (line.fused, line.executed, line.why) == (fused, "fp32", "")


FORMS = {
    "opset 13": Encoder(opset=13),
    "opset 21, no zero points": Encoder(opset=21, zeros=False),
    "opset 19, unsigned without zero points": Encoder(placing="unsigned", zeros=False),
    "float weights behind Q/DQ": Encoder(weights="qdq"),
    "static shapes": Encoder(static=True),
    "Model Optimizer's placement": Encoder(weights="qdq", attention=True, residuals=True),
}


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_same(form: str, engine: str, tmp_path: Path) -> None:
    encoder = FORMS[form]
    if engine.startswith("tensorrt") and encoder.opset < 19:
        pytest.skip("scales of Q/DQ are FP16 from opset 19 on")
    audit = audited(encoder, engine, tmp_path)
    undeclared = engine == "onnxruntime" and encoder.opset >= 21
    wrong = linears(encoder) if undeclared else set()
    check(audit, encoder, set() if encoder.attention else attention(encoder) | wrong)
    assert {line.matmul for line in audit.missed()} == wrong
    assert all("has no zero point" in line.why for line in audit.missed())


GEMMS: dict[str, tuple[Encoder, dict[str, set[str]]]] = {
    "well placed": (Encoder(), {"onnxruntime": set(LINEARS)}),
    "static": (Encoder(static=True), {"onnxruntime": set(LINEARS)}),
    "INT32 bias": (Encoder(placing="bias"), {}),
    "activation without weight": (
        Encoder(special={"layer.0.up": "activation"}),
        {"onnxruntime": set(LINEARS), "openvino": {"up"}, "tensorrt-rtx": {"up"}},
    ),
    "weight without activation": (
        Encoder(placing="bias", special={"layer.0.up": "weight"}),
        {"onnxruntime": {"up"}, "openvino": {"up"}},
    ),
}


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("name", GEMMS)
def test_gemms(name: str, engine: str, tmp_path: Path) -> None:
    encoder, floats = GEMMS[name]
    encoder = replace(encoder, operator="Gemm")
    audit = audited(encoder, engine, tmp_path)
    if engine.startswith("tensorrt") and encoder.placing == "bias":
        assert "INT32" in audit.notes[0]
        return
    wrong = {f"layer.0.{part}" for part in floats.get(engine, set())}
    check(audit, encoder, attention(encoder) | wrong)
    assert {line.matmul for line in audit.missed()} == wrong
    if engine == "onnxruntime" and name == "well placed":
        assert {line.why for line in audit.missed()} == {
            "ONNX Runtime has an integer Gemm only with an INT32 bias or with Q/DQ on its output; "
            "MatMul and Add run in INT8"
        }


def test_scales_in_fp16_on_onnx_runtime(tmp_path: Path) -> None:
    found = read_graph(Encoder(half=True).write(tmp_path / "graph.onnx"), {})
    (audit,) = audit_graph(found, ["onnxruntime"], Silence(), ask=examine)
    coverage = audit.coverage()
    assert coverage is not None and coverage.share == 0
    assert {line.why for line in audit.missed()} == {
        "its scales are FP16, and ONNX Runtime has integer matmuls for FP32 scales only"
    }


OPERATORS = {
    "convolution": (
        """g (float[n, 4, 8, 8] x) => (float[n, 8, 6, 6] y) {
            x_q = QuantizeLinear(x, s, z)
            x_d = DequantizeLinear(x_q, s, z)
            k_d = DequantizeLinear<axis=0>(k, k_s, k_z)
            [only] y = Conv(x_d, k_d, b)
        }""",
        2 * 8 * 6 * 6 * 4 * 3 * 3,
        {"onnxruntime": "fp32", "openvino": "int8", "tensorrt-rtx": "int8"},
    ),
    "Attention": (
        """g (float16[n, 2, t, 32] x) => (float16[n, 2, t, 32] y) {
            x_q = QuantizeLinear(x, s, z)
            x_d = DequantizeLinear(x_q, s, z)
            [only] o = Attention(x_d, x_d, x_d)
            o_q = QuantizeLinear(o, s, z)
            y = DequantizeLinear(o_q, s, z)
        }""",
        2 * 2 * 16 * 16 * (32 + 32),
        {"onnxruntime": "fp16", "openvino": FUSED, "tensorrt-rtx": "fp16"},
    ),
}


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("name", OPERATORS)
def test_other_operators(name: str, engine: str, tmp_path: Path) -> None:
    if _missing(engine):
        pytest.skip(_missing(engine))
    text, macs, executed = OPERATORS[name]
    half = np.float16 if "float16" in text else np.float32
    constants: dict[str, np.ndarray] = {
        "s": np.asarray(0.02, half),
        "z": np.asarray(0, np.int8),
        "k": np.ones((8, 4, 3, 3), np.int8),
        "k_s": np.full(8, 0.1, np.float32),
        "k_z": np.zeros(8, np.int8),
        "b": np.ones(8, np.float32),
    }
    used = {k: v for k, v in constants.items() if re.search(rf"\b{k}\b", text)}
    onnx.save(proto_from_text(text, used, opset=23), tmp_path / "graph.onnx")
    given = (2, 4, 8, 8) if name == "convolution" else (2, 2, 16, 32)
    found = read_graph(tmp_path / "graph.onnx", {"x": given})
    (audit,) = audit_graph(found, [engine], Silence(), ask=examine)
    (line,) = audit.lines
    assert (line.matmul, line.macs, line.executed) == ("only", macs, executed[engine])
    coverage = audit.coverage()
    assert coverage is not None and coverage.share == (line.executed == "int8")
    if name == "Attention":
        assert line.why == INSIDE_ATTENTION
    elif line.why:
        assert "only with Q/DQ on its output" in line.why


def test_a_compiler_that_crashes_refuses(tmp_path: Path) -> None:
    """TensorRT-RTX 1.7 ends the process over the operator Attention with Q/DQ in FP32."""
    pytest.importorskip("tensorrt_rtx")
    text = OPERATORS["Attention"][0].replace("float16", "float")
    constants: dict[str, np.ndarray] = {
        "s": np.asarray(0.02, np.float32),
        "z": np.asarray(0, np.int8),
    }
    onnx.save(proto_from_text(text, constants, opset=23), tmp_path / "graph.onnx")
    found = read_graph(tmp_path / "graph.onnx", {"x": (2, 2, 16, 32)})
    crashed, whole = audit_graph(found, ["tensorrt-rtx", "onnxruntime"], Silence())
    assert crashed.refused.startswith("tensorrt-rtx crashed on this graph (SIG")
    assert {line.executed for line in whole.lines} == {"fp32"}


def test_a_process_of_its_own_gives_the_same_answer(tmp_path: Path) -> None:
    found = read_graph(Encoder().write(tmp_path / "graph.onnx"), {"x": Encoder().shape})
    apart, here = (
        audit_graph(found, ["openvino"], Silence(), ask=ask)[0] for ask in (examine_apart, examine)
    )
    assert apart == here
