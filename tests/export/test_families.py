"""Every variant in every family as ONNX: parity on random shapes and padding, and a clean graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers as hf

from attention.attaching import attach
from export.checkpoint import Forward, is_causal
from export.decoding import DECODE, PREFILL, export_decoder
from export.reference import open_reference
from export.torch_export import export_module
from tests.attention.test_families import DECODERS, FAMILIES, V, every, model_of
from trueint8.errors import ExportError

POSITIONS = 38
"""What every family here has, after RoBERTa has taken two for its padding."""

FAST = {("bert", "clipped"), ("llama", "gated-mlp"), ("vit", "differential")}


def drawn(model: Any, rows: int, length: int, seed: int) -> dict[str, np.ndarray]:
    """Return random tokens with random padding, on either side for a decoder; or images."""
    draw = np.random.default_rng(seed)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": draw.standard_normal((rows, 1, 8, 8)).astype(np.float32)}
    ids = draw.integers(3, V, (rows, length))
    mask = np.ones_like(ids)
    for row in range(rows):
        padding = int(draw.integers(0, length))
        left = is_causal(model) and draw.random() < 0.5
        mask[row, :padding] = 0 if left and padding else mask[row, :padding]
        if not left and padding:
            mask[row, -padding:] = 0
    if model.config.model_type == "roberta":  # counts positions from the padding token
        ids[mask == 0] = 1
    return {"input_ids": ids, "attention_mask": mask}


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


@pytest.mark.parametrize(("family", "variant"), every(FAMILIES, FAST))
def test_parity_on_any_batch_length_and_padding(family: str, variant: str, tmp_path: Path) -> None:
    model = model_of(family, variant)
    forward = Forward(model).eval()
    path = tmp_path / "model.onnx"
    parity = export_module(forward, [drawn(model, 3, 11, 0)], path)
    assert parity.relative_error < 1e-5
    onnx.checker.check_model(str(path), full_check=True)
    shapes = [(1, 1), (1, POSITIONS), (8, 5), (8, POSITIONS), (2, 17), (5, 3)]
    with open_reference(path) as run:
        for seed, (rows, length) in enumerate(shapes, start=1):
            batch = drawn(model, rows, length, seed)
            with torch.no_grad():
                wanted = forward(**{k: torch.from_numpy(v) for k, v in batch.items()}).numpy()
            actual = next(iter(run(batch).values()))
            if wanted.ndim == 3:
                seen = batch["attention_mask"].astype(bool)
                wanted, actual = wanted[seen], actual[seen]
            np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(("family", "variant"), every(DECODERS, FAST))
def test_prefill_and_decode_equal_the_whole_sequence(
    family: str, variant: str, tmp_path: Path
) -> None:
    model = model_of(family, variant)
    forward = Forward(model).eval()
    sample = {"input_ids": drawn(model, 2, 12, 0)["input_ids"]}
    export_decoder(forward, sample, tmp_path)
    for name in (PREFILL, DECODE):
        onnx.checker.check_model(str(tmp_path / name), full_check=True)
    rows, length, start = 3, 20, 13
    ids = np.random.default_rng(5).integers(3, V, (rows, length))
    mask = np.ones_like(ids)
    mask[0, :6] = 0
    with torch.no_grad():
        wanted = forward(
            input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)
        ).numpy()
    with open_reference(tmp_path / PREFILL) as prefill, open_reference(tmp_path / DECODE) as decode:
        out = prefill({"input_ids": ids[:, :start], "attention_mask": mask[:, :start]})
        steps = [out["logits"]]
        for t in range(start, length):
            cache = {k.replace("present", "past_key_values"): v for k, v in out.items()}
            tokens = {"input_ids": ids[:, t : t + 1], "attention_mask": mask[:, : t + 1]}
            out = decode({**cache, **tokens})
            steps.append(out["logits"])
    seen = mask.astype(bool)
    actual = np.concatenate(steps, axis=1)[seen]
    np.testing.assert_allclose(actual, wanted[seen], rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_an_encoder_has_no_cache(tmp_path: Path) -> None:
    forward = Forward(model_of("bert")).eval()
    sample = {"input_ids": np.full((2, 12), 5)}
    with pytest.raises(ExportError, match="is no decoder"):
        export_decoder(forward, sample, tmp_path)


@pytest.mark.parametrize("variant", ["vanilla", "clipped", "gated-linear"])
def test_masks_are_made_once_and_layers_hold_no_stray_operators(
    variant: str, tmp_path: Path
) -> None:
    counts = []
    for layers in (2, 4):
        torch.manual_seed(0)
        config = hf.BertConfig(
            vocab_size=V,
            hidden_size=32,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=40,
        )
        model = attach(hf.BertForMaskedLM(config), variant).eval()
        path = tmp_path / f"{layers}.onnx"
        export_module(Forward(model, "fill-mask").eval(), [drawn(model, 2, 9, 0)], path)
        counts.append(operators(path))
    two, four = counts
    stray = ("IsNaN", "Where", "Range", "GatherND", "Gather", "Expand", "Cast", "ConstantOfShape")
    assert two["IsNaN"] == two["GatherND"] == 0
    assert all(two[name] <= 1 for name in ("Where", "Range"))
    assert {name: two[name] for name in stray} == {name: four[name] for name in stray}
    assert four["Softmax"] == 4
    assert four["MatMul"] - two["MatMul"] == 2 * (8 + (variant == "gated-linear"))


@pytest.mark.parametrize("variant", ["vanilla", "clipped", "differential"])
def test_a_half_precision_graph_is_typed_and_the_clipped_core_is_single(
    variant: str, tmp_path: Path
) -> None:
    model = model_of("bert", variant)
    path = tmp_path / "model.onnx"
    parity = export_module(Forward(model).eval(), [drawn(model, 3, 11, 0)], path, half=True)
    assert 1e-7 < parity.relative_error < 1e-2
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path)), data_prop=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    floats = {t.data_type for t in graph.initializer} - {onnx.TensorProto.INT64}
    assert onnx.TensorProto.FLOAT16 in floats
    assert floats <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL}
    assert types[graph.output[0].name] == onnx.TensorProto.FLOAT16
    softmax = {types[n.output[0]] for n in graph.node if n.op_type == "Softmax"}
    core = onnx.TensorProto.FLOAT if variant == "clipped" else onnx.TensorProto.FLOAT16
    assert softmax == {core}


def test_the_differential_is_exported_in_its_linear_split_form(tmp_path: Path) -> None:
    """Two softmaxes, each with its own product with V, and the difference of the products."""
    model = model_of("bert", "differential")
    path = tmp_path / "model.onnx"
    export_module(Forward(model).eval(), [drawn(model, 3, 11, 0)], path)
    nodes = list(onnx.load(str(path)).graph.node)
    made = {out: node for node in nodes for out in node.output}
    products = [n for n in nodes if n.op_type == "MatMul" and is_softmax(n.input[0], made)]
    assert products and not [n for n in nodes if n.op_type == "Sub" and subtracts_maps(n, made)]


def is_softmax(name: str, made: dict[str, Any]) -> bool:
    return name in made and made[name].op_type == "Softmax"


def subtracts_maps(node: Any, made: dict[str, Any]) -> bool:
    sources = [made.get(name) for name in node.input]
    behind = [s.input[0] if s is not None and s.op_type == "Mul" else None for s in sources]
    return any(is_softmax(str(n), made) for n in (*node.input, *behind))
