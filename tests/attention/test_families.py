"""Every variant in every family: saved, loaded, padded, cached, trained, converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from attention.attaching import IMPLEMENTATION, attach, convert, load_pretrained
from attention.variants import VARIANTS
from trueint8.errors import ConfigError, UnknownName

V, T = 61, 9
_SIZES: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
_TOKENS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}


def opt_config() -> Any:
    sizes = {k: v for k, v in _SIZES.items() if k != "intermediate_size"}
    return hf.OPTConfig(**sizes, ffn_dim=48, word_embed_proj_dim=32, **_TOKENS)


def gpt2_config() -> Any:
    return hf.GPT2Config(vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=40, **_TOKENS)


def distilbert_config() -> Any:
    return hf.DistilBertConfig(
        vocab_size=V, dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=40
    )


def vit_config() -> Any:
    sizes = {k: v for k, v in _SIZES.items() if k not in ("vocab_size", "max_position_embeddings")}
    return hf.ViTConfig(**sizes, image_size=8, patch_size=2, num_channels=1)


FAMILIES: dict[str, tuple[Any, Any]] = {
    "bert": (hf.AutoModelForMaskedLM, lambda: hf.BertConfig(**_SIZES)),
    "roberta": (hf.AutoModelForMaskedLM, lambda: hf.RobertaConfig(**_SIZES)),
    "distilbert": (hf.AutoModelForMaskedLM, distilbert_config),
    "opt": (hf.AutoModelForCausalLM, opt_config),
    "gpt2": (hf.AutoModelForCausalLM, gpt2_config),
    "llama": (hf.AutoModelForCausalLM, lambda: hf.LlamaConfig(**_SIZES, num_key_value_heads=2)),
    "qwen2": (hf.AutoModelForCausalLM, lambda: hf.Qwen2Config(**_SIZES, num_key_value_heads=2)),
    "vit": (hf.AutoModelForImageClassification, vit_config),
}
DECODERS = ("opt", "gpt2", "llama", "qwen2")


def every(families: Any, fast: set[tuple[str, str]] | None = None) -> list[Any]:
    """Return all families × variants; by default run those in ``fast``, or each of both once."""
    names = VARIANTS.names()
    if fast is None:
        fast = {(f, v) for i, f in enumerate(families) for v in names[i :: len(families)]}
    return [
        pytest.param(f, v, id=f"{f}-{v}", marks=[] if (f, v) in fast else [pytest.mark.slow])
        for f in families
        for v in names
    ]


PAIRS = every(FAMILIES)


def model_of(family: str, variant: str | None = None) -> Any:
    auto, config = FAMILIES[family]
    torch.manual_seed(0)
    model = auto.from_config(config()).eval()
    return model if variant is None else attach(model, variant).eval()


def batch(family: str) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    if family == "vit":
        return {"pixel_values": torch.rand(2, 1, 8, 8, generator=draw)}
    ids = torch.randint(3, V, (2, T), generator=draw)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def logits(model: Any, **inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(**inputs).logits)


@pytest.mark.parametrize(("family", "variant"), PAIRS)
def test_saved_and_loaded_it_computes_the_same(family: str, variant: str, tmp_path: Path) -> None:
    model = model_of(family, variant)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    model.save_pretrained(tmp_path)
    assert {p.suffix for p in tmp_path.iterdir()} <= {".json", ".safetensors"}
    loaded, info = load_pretrained(FAMILIES[family][0], str(tmp_path), output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert type(loaded) is type(model)
    assert loaded.config.attention_variant["name"] == variant
    assert torch.equal(logits(loaded.eval(), **batch(family)), logits(model, **batch(family)))


@pytest.mark.parametrize(("family", "variant"), PAIRS)
def test_every_parameter_of_a_variant_learns(family: str, variant: str) -> None:
    model = model_of(family, variant).train()
    model(**batch(family)).logits.square().mean().backward()
    named = [(n, p) for n, p in model.named_parameters() if ".variant." in n]
    assert all(p.grad is not None and p.grad.any() for _, p in named), variant


@pytest.mark.parametrize(("family", "variant"), PAIRS)
def test_a_pretrained_model_is_converted_near_itself_and_back(family: str, variant: str) -> None:
    model = model_of(family)
    before = logits(attach(model, "vanilla"), **batch(family))
    if variant == "differential":
        with pytest.raises(ConfigError, match="cannot be converted"):
            convert(model, variant)
        return
    after = logits(convert(model, variant), **batch(family))
    if variant not in ("clipped", "normalized-clipped", "softmax1"):
        assert float((after - before).abs().max()) < 0.02 * float(before.abs().max()) + 1e-3
    back = logits(attach(model, "vanilla"), **batch(family))
    assert torch.equal(back, before)


@pytest.mark.parametrize(("family", "variant"), every([f for f in FAMILIES if f != "vit"]))
def test_right_padding_changes_no_real_token(family: str, variant: str) -> None:
    model = model_of(family, variant)
    inputs = batch(family)
    alone = logits(model, **{k: v[1:, : T - 4] for k, v in inputs.items()})
    inputs["attention_mask"][1, T - 4 :] = 0
    if family == "roberta":  # counts positions from the padding token
        inputs["input_ids"][1, T - 4 :] = 1
    padded = logits(model, **inputs)[1:, : T - 4]
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("family", "variant"), every(DECODERS))
def test_left_padding_with_positions_changes_no_real_token(family: str, variant: str) -> None:
    model = model_of(family, variant)
    inputs = batch(family)
    alone = logits(model, **{k: v[1:, 4:] for k, v in inputs.items()})
    mask = inputs["attention_mask"]
    mask[1, :4] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    given = {} if family == "opt" else {"position_ids": positions}
    padded = logits(model, **inputs, **given)[1:, 4:]
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("family", "variant"), every(DECODERS))
def test_token_by_token_with_a_cache_equals_the_whole_sequence(family: str, variant: str) -> None:
    model = model_of(family, variant)
    ids = batch(family)["input_ids"]
    whole = logits(model, input_ids=ids)
    cache, steps = None, []
    with torch.no_grad():
        for t in range(T):
            out = model(input_ids=ids[:, t : t + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=1e-4, atol=2e-5)
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % V
    early = logits(model, input_ids=changed)[:, :-1]
    torch.testing.assert_close(early, whole[:, :-1], rtol=1e-5, atol=1e-6)


def test_a_variant_that_is_not_installed_is_named(tmp_path: Path) -> None:
    model_of("bert", "clipped").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"clipped"', '"cliped"'))
    with pytest.raises(UnknownName, match="no variant is called 'cliped'") as caught:
        load_pretrained(hf.AutoModelForMaskedLM, str(tmp_path))
    assert "did you mean 'clipped'" in caught.value.fix


def test_a_model_built_without_its_variant_does_not_run_as_softmax(tmp_path: Path) -> None:
    model_of("bert", "clipped").save_pretrained(tmp_path)
    plain = hf.AutoModelForMaskedLM.from_pretrained(tmp_path, attn_implementation=IMPLEMENTATION)
    with pytest.raises(ConfigError, match="was built without it"):
        plain(**batch("bert"))


def test_architecture_changes_come_back(tmp_path: Path) -> None:
    from attention.attaching import prepare

    changed = {"vit": {"patch_norm": True}, "opt": {"attention_free_layers": [0]}}
    for family, changes in changed.items():
        auto, config = FAMILIES[family]
        wanted = config()
        wanted.architecture_changes = changes
        torch.manual_seed(0)
        model = attach(prepare(auto.from_config(wanted)), "gated-linear").eval()
        model.save_pretrained(tmp_path / family)
        loaded = load_pretrained(auto, str(tmp_path / family)).eval()
        assert torch.equal(logits(loaded, **batch(family)), logits(model, **batch(family)))
        assert not torch.equal(
            logits(model, **batch(family)),
            logits(model_of(family, "gated-linear"), **batch(family)),
        )
    wanted = FAMILIES["bert"][1]()
    wanted.architecture_changes = {"attention_free_layers": [0]}
    with pytest.raises(ConfigError, match="cannot be left out"):
        prepare(hf.AutoModelForMaskedLM.from_config(wanted))
