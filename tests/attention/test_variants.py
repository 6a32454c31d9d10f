"""The variants against their definitions, and in real transformers models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from attention.attaching import CONFIG_KEY, IMPLEMENTATION, attach, load_pretrained
from attention.variant import Layer
from attention.variants import VARIANTS
from trueint8.errors import ConfigError, UnknownName

TOKENS = 12
PADDED = 5
VOCAB = 97

LAYER = Layer(heads=4, kv_heads=4, head_width=8, width=32)


def vanilla(given: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(VARIANTS.load("vanilla")(LAYER).probabilities(given, None))


def clipped(given: torch.Tensor, **parameters: float) -> torch.Tensor:
    variant = VARIANTS.load("clipped")(LAYER, **parameters)
    return torch.as_tensor(variant.probabilities(given, None))


def scores(*shape: int, scale: float = 4.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def test_vanilla_is_softmax_in_float64() -> None:
    given = scores(2, 3, 5, 7)
    exact = np.exp(given.double().numpy())
    exact /= exact.sum(-1, keepdims=True)
    np.testing.assert_allclose(vanilla(given).numpy(), exact, rtol=1e-5, atol=1e-7)


def test_clipped_without_stretch_is_vanilla_bit_for_bit() -> None:
    given = scores(2, 3, 5, 7)
    assert torch.equal(clipped(given, gamma=0.0, zeta=1.0), vanilla(given))


def test_clipped_follows_equation_4_in_float64() -> None:
    gamma, zeta = -0.03, 1.1
    given = scores(2, 3, 16, 16)
    exact = torch.softmax(given.double(), dim=-1).numpy()
    exact = np.clip((zeta - gamma) * exact + gamma, 0.0, 1.0)
    np.testing.assert_allclose(clipped(given, gamma=gamma, zeta=zeta).numpy(), exact, atol=1e-6)


@pytest.mark.parametrize(("gamma", "zeta"), [(-0.025, 1.0), (-0.1, 1.0), (-0.03, 1.05), (0.0, 1.1)])
def test_exact_zeros_and_ones_start_at_the_thresholds(gamma: float, zeta: float) -> None:
    zero_below = -gamma / (zeta - gamma)
    one_above = (1.0 - gamma) / (zeta - gamma)
    given = scores(4, 4, 32, 32, scale=6.0)
    softmax = torch.softmax(given.double(), dim=-1)
    result = clipped(given.double(), gamma=gamma, zeta=zeta)
    margin = 1e-12
    assert torch.all(result[softmax < zero_below - margin] == 0.0)
    assert torch.all(result[softmax > one_above + margin] == 1.0)
    inside = (softmax > zero_below + margin) & (softmax < one_above - margin)
    assert torch.all((result[inside] > 0.0) & (result[inside] < 1.0))
    assert inside.any()
    if gamma < 0.0:
        assert (result == 0.0).any()
    if zeta > 1.0:
        assert (result == 1.0).any()


def test_no_gradient_flows_through_a_clipped_value() -> None:
    # Row 0 is clipped at both ends (p = .99, .01 and 0): nothing can move it.
    given = torch.tensor([[5.0, 0.0, -20.0], [1.0, 0.0, -20.0]], requires_grad=True)
    result = clipped(given, gamma=-0.05, zeta=1.05)
    assert result[0].tolist() == [1.0, 0.0, 0.0]
    assert result[1, 2].item() == 0.0
    result[0].sum().backward()
    assert given.grad is not None
    assert torch.count_nonzero(given.grad) == 0
    given.grad = None
    clipped(given, gamma=-0.05, zeta=1.05)[1, 0].backward()
    assert given.grad is not None
    assert torch.count_nonzero(given.grad[1]) > 0


# transformers' defaults are the published sizes; these are the smallest that run.
WIDE: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48}
DEEP: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4}


def bert(kind: str, **more: Any) -> Any:
    config = getattr(transformers, f"{kind}Config")(**WIDE, **DEEP, **more)
    return getattr(transformers, f"{kind}Model")(config)


def distilbert() -> Any:
    config = transformers.DistilBertConfig(
        vocab_size=VOCAB, dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=64
    )
    return transformers.DistilBertModel(config)


def opt() -> Any:
    config = transformers.OPTConfig(
        vocab_size=VOCAB, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, **DEEP
    )
    return transformers.OPTModel(config)


def gpt2() -> Any:
    return transformers.GPT2Model(
        transformers.GPT2Config(
            vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
        )
    )


def llama() -> Any:
    return transformers.LlamaModel(transformers.LlamaConfig(**WIDE, **DEEP, num_key_value_heads=2))


FAMILIES: dict[str, Any] = {
    "bert": lambda: bert("Bert"),
    "roberta": lambda: bert("Roberta", max_position_embeddings=64),
    "distilbert": distilbert,
    "opt": opt,
    "gpt2": gpt2,
    "llama-gqa": llama,
}


def batch(side: str) -> dict[str, torch.Tensor]:
    """Two rows, of which the second has ``PADDED`` tokens of padding."""
    ids = torch.randint(3, VOCAB, (2, TOKENS), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, slice(0, PADDED) if side == "left" else slice(TOKENS - PADDED, None)] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


def outputs(model: Any, **inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(**inputs).last_hidden_state)


def sharpened(build: Any) -> Any:
    """Return a random model whose attention is far from uniform, so that masks matter."""
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8.0)
    return model


@pytest.mark.parametrize("side", ["left", "right", "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_vanilla_equals_the_model_s_own_eager_attention(family: str, side: str) -> None:
    model = sharpened(FAMILIES[family])
    inputs = batch(side)
    if side == "none":
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    model.set_attn_implementation("eager")
    expected = outputs(model, **inputs)
    attach(model, "vanilla")
    assert model.config._attn_implementation == IMPLEMENTATION
    seen = inputs["attention_mask"].bool()
    difference = (outputs(model, **inputs) - expected)[seen].abs().max()
    assert float(difference) <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_has_no_influence(family: str) -> None:
    model = attach(sharpened(FAMILIES[family]), "vanilla")
    inputs = batch("right")
    other = dict(inputs)
    padding = inputs["attention_mask"] == 0
    other["input_ids"] = inputs["input_ids"].masked_fill(padding, 2)
    if family == "roberta":  # counts positions by the padding token's id
        other["position_ids"] = inputs["position_ids"] = torch.arange(2, TOKENS + 2)[None]
    difference = outputs(model, **inputs) - outputs(model, **other)
    assert float(difference[~padding].abs().max()) <= 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_clipped_changes_the_output_and_reaches_exact_zero(family: str) -> None:
    model = attach(sharpened(FAMILIES[family]), "clipped", gamma=-0.3)
    inputs = batch("right")
    with torch.no_grad():
        result = model(**inputs, output_attentions=True)
    columns = result.attentions[0][0]  # the row without padding: (H, T, T)
    possible = torch.ones(TOKENS, TOKENS, dtype=torch.bool)
    if family in ("opt", "gpt2", "llama-gqa"):
        possible = possible.tril()
    assert (columns[:, possible] == 0.0).any()
    clipped_output = outputs(model, **inputs)
    assert not torch.allclose(clipped_output, outputs(attach(model, "vanilla"), **inputs))


def test_the_checkpoint_keeps_the_variant_and_its_parameters(tmp_path: Path) -> None:
    model = attach(sharpened(FAMILIES["bert"]), "clipped", gamma=-0.3, zeta=1.02)
    inputs = batch("right")
    expected = outputs(model, **inputs)
    model.save_pretrained(tmp_path)
    loaded = load_pretrained(transformers.AutoModel, str(tmp_path))
    settings = getattr(loaded.config, CONFIG_KEY)
    assert settings == {"name": "clipped", "gamma": -0.3, "zeta": 1.02}
    assert torch.equal(outputs(loaded.eval(), **inputs), expected)


def test_a_checkpoint_without_a_variant_runs_vanilla(tmp_path: Path) -> None:
    model = sharpened(FAMILIES["bert"])
    model.set_attn_implementation("eager")
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation=IMPLEMENTATION)
    inputs = batch("right")
    seen = inputs["attention_mask"].bool()
    difference = (outputs(loaded.eval(), **inputs) - outputs(model, **inputs))[seen]
    assert float(difference.abs().max()) <= 1e-5


def test_an_unknown_variant_is_named_with_the_closest_one() -> None:
    with pytest.raises(UnknownName) as caught:
        attach(FAMILIES["bert"](), "cliped")
    assert caught.value.problem == "no variant is called 'cliped'"
    assert caught.value.fix.startswith("did you mean 'clipped'? choose one of: ")
    assert "vanilla" in caught.value.fix


def test_an_unknown_parameter_lists_those_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        attach(FAMILIES["bert"](), "clipped", gama=-0.1)
    assert caught.value.problem == "variant 'clipped' has no parameter 'gama'"
    assert caught.value.fix == "it takes: gamma, zeta, alpha, length"
    with pytest.raises(ConfigError) as caught:
        attach(FAMILIES["bert"](), "vanilla", gamma=-0.1)
    assert caught.value.fix == "it takes: none"
