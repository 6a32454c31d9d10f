"""Each variant satisfies the identity that defines it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import (
    DiffLlamaConfig,
    DiffLlamaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from attention.attaching import attach, deployment_warning
from attention.variant import Layer, Variant
from attention.variants import VARIANTS
from trueint8.errors import ConfigError

B, H, T, D, C = 2, 4, 9, 8, 32
SCALE = D**-0.5
BERT_BASE = Layer(heads=12, kv_heads=12, head_width=64, width=768)
GATED = [
    ("gated-linear", {}),
    ("gated-mlp", {}),
    ("gated-all-heads", {}),
    ("gated-output", {}),
    ("gated-output", {"granularity": "head"}),
]


def layer(**changes: Any) -> Layer:
    fields = {"heads": H, "kv_heads": H, "head_width": D, "width": C, "length": T, **changes}
    return Layer(**fields)


def made(name: str, on: Layer | None = None, **parameters: Any) -> Any:
    torch.manual_seed(0)
    return VARIANTS.load(name)(on or layer(), **parameters).double().eval()


def inputs(seed: int = 0) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)
    names = ("query", "key", "value")
    tensors = {n: torch.randn(B, H, T, D, generator=draw, dtype=torch.float64) for n in names}
    mask = torch.zeros(B, 1, T, T, dtype=torch.float64)
    mask[1, ..., T - 3 :] = torch.finfo(torch.float32).min
    given = torch.randn(B, T, C, generator=draw, dtype=torch.float64)
    return {**tensors, "mask": mask, "scaling": SCALE, "layer_input": given}


def output(variant: Any, **changes: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(variant(**{**inputs(), **changes})[0])


def by_definition(sink: torch.Tensor) -> torch.Tensor:
    """Return attention with a logit per head and a zero value appended."""
    x = inputs()
    scores = x["query"] @ x["key"].transpose(2, 3) * SCALE + x["mask"]
    column = sink.reshape(1, -1, 1, 1).expand(B, H, T, 1)
    weights = torch.softmax(torch.cat([scores, column], dim=-1), dim=-1)
    value = torch.cat([x["value"], torch.zeros(B, H, 1, D, dtype=torch.float64)], dim=2)
    return weights @ value


def test_softmax1_is_softmax_with_a_zero_logit_and_a_zero_value() -> None:
    expected = by_definition(torch.zeros(H, dtype=torch.float64))
    torch.testing.assert_close(output(made("softmax1")), expected, rtol=1e-12, atol=1e-12)


def test_learned_sink_is_softmax_with_its_logit_and_a_zero_value() -> None:
    variant = made("learned-sink")
    with torch.no_grad():
        variant.sinks.copy_(torch.tensor([-3.0, 0.0, 1.5, 6.0]))
    expected = by_definition(variant.sinks.detach())
    torch.testing.assert_close(output(variant), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["softmax1", "learned-sink", "clipped", "normalized-clipped"])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e2, 1e4])
def test_extreme_scores_stay_finite_with_gradients(name: str, size: float) -> None:
    variant = made(name).float()
    x = {k: v.float() if torch.is_tensor(v) else v for k, v in inputs().items()}
    x["query"] = (x["query"] * size).requires_grad_()
    result = variant(**x)[0]
    result.square().sum().backward()
    assert torch.isfinite(result).all() and torch.isfinite(x["query"].grad).all()


@pytest.mark.parametrize(("name", "parameters"), GATED)
def test_gates_at_a_bias_of_30_are_vanilla(name: str, parameters: dict[str, Any]) -> None:
    variant = made(name, **parameters)
    with torch.no_grad():
        variant.bias.fill_(30.0)
    assert float((output(variant) - output(made("vanilla"))).abs().max()) < 1e-6


@pytest.mark.parametrize(("name", "parameters"), GATED)
@pytest.mark.parametrize("opened", [0.1, 0.25, 0.5, 0.9])
def test_gates_start_open_by_pi_init(name: str, parameters: dict[str, Any], opened: float) -> None:
    variant = made(name, pi_init=opened, **parameters)
    gate = variant.gate(None, None, inputs()["layer_input"]).detach()
    assert gate.shape[:3] == (B, H, T)
    assert float(gate.mean()) == pytest.approx(opened, abs=0.02)


@pytest.mark.parametrize(
    ("name", "parameters", "count"),
    [
        ("gated-linear", {}, 12 * (64 + 1)),
        ("gated-mlp", {"hidden": 4}, 12 * (4 * (64 + 2) + 1)),
        ("gated-mlp", {"hidden": 16}, 12 * (16 * (64 + 2) + 1)),
        ("gated-all-heads", {}, 12 * (768 + 1)),
        ("gated-output", {}, 768 * (768 + 1)),
        ("gated-output", {"granularity": "head"}, 12 * (768 + 1)),
        ("learned-sink", {}, 12),
        ("differential", {}, 4 * 64 + 2 * 64),
        ("vanilla", {}, 0),
        ("softmax1", {}, 0),
        ("clipped", {}, 0),
    ],
)
def test_parameters_per_layer_at_bert_base_size(
    name: str, parameters: dict[str, Any], count: int
) -> None:
    variant = made(name, BERT_BASE, **parameters)
    assert sum(p.numel() for p in variant.parameters()) == count


@pytest.mark.parametrize("name", ["gated-linear", "gated-mlp"])
def test_a_head_s_gate_reads_its_own_slice_only(name: str) -> None:
    variant = made(name)
    given = inputs()["layer_input"]
    changed = given.clone()
    changed[..., : C // H] += 5.0
    gates = [variant.gate(None, None, x) for x in (given, changed)]
    assert not torch.equal(gates[0][:, 0], gates[1][:, 0])
    assert torch.equal(gates[0][:, 1:], gates[1][:, 1:])


def test_clipped_gamma_from_alpha_and_its_warning() -> None:
    assert made("clipped", alpha=3.2, length=128).gamma == pytest.approx(-0.025)
    assert made("clipped", layer(length=64), alpha=3.2).gamma == pytest.approx(-0.05)
    settings = {"name": "clipped", "alpha": 3.2, "length": 128}
    assert deployment_warning(settings, 128) is None
    assert "at 128 tokens; at 64 it clips" in str(deployment_warning(settings, 64))
    assert deployment_warning({"name": "vanilla"}, 64) is None
    refused: list[dict[str, Any]] = [{"alpha": -1.0}, {"gamma": 0.1}, {"zeta": 0.5}]
    for wrong in [*refused, {"alpha": 1.0, "gamma": -0.1}]:
        with pytest.raises(ConfigError):
            made("clipped", **wrong)


def test_normalized_clipped_without_alpha_is_vanilla() -> None:
    assert torch.equal(output(made("normalized-clipped", alpha=0.0)), output(made("vanilla")))


def test_normalized_clipped_does_not_depend_on_padding() -> None:
    variant = made("normalized-clipped", alpha=2.0)
    x = inputs()
    seen = T - 3
    short = {k: x[k][1:, :, :seen] for k in ("query", "key", "value")}
    alone = variant(**short, mask=None, scaling=SCALE)[0]
    torch.testing.assert_close(output(variant)[1:, :, :seen], alone, rtol=1e-10, atol=1e-10)


def test_normalized_clipped_counts_all_keys_where_the_mask_does_not_tell_them_apart() -> None:
    variant = made("normalized-clipped", alpha=0.5)
    scores = torch.randn(2, 3, T, T, dtype=torch.float64)
    expected = variant.probabilities(scores, None)
    for shape in ((1, 1, 1, 1), (1, 1, T, 1), (2, 1, 1, T), (1, 1, T, T)):
        torch.testing.assert_close(variant.probabilities(scores, torch.zeros(shape)), expected)


def test_normalized_clipped_counts_the_keys_of_each_causal_row() -> None:
    variant = made("normalized-clipped", alpha=2.0)
    scores = torch.zeros(1, 1, T, T, dtype=torch.float64)
    mask = torch.full((T, T), float(torch.finfo(torch.float32).min)).triu(1).double()[None, None]
    counts = torch.arange(1, T + 1, dtype=torch.float64)
    expected = torch.clip((1 + 2.0 / counts) / counts - 2.0 / counts, 0.0, 1.0)
    weights = variant.probabilities(scores + mask, mask)[0, 0]
    torch.testing.assert_close(weights[:, 0], expected)


def test_lambda_init_follows_the_published_schedule() -> None:
    values = [made("differential", layer(index=i)).lambda_init for i in range(4)]
    assert values == pytest.approx([0.200, 0.356, 0.471, 0.556], abs=5e-4)
    assert made("differential", layer(index=100)).lambda_init == pytest.approx(0.8)


def lambda_set_to(variant: Any, value: float) -> Any:
    """Make λ equal ``value`` through the re-parameterization: exp(0) − exp(y) + λ_init."""
    with torch.no_grad():
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            getattr(variant, name).zero_()
        wanted = math.log(1.0 + variant.lambda_init - value)
        variant.lambda_q2[0], variant.lambda_k2[0] = wanted, 1.0
    assert float(variant.difference().detach()) == pytest.approx(value, abs=1e-12)
    return variant


def normed(variant: Any, value: torch.Tensor) -> torch.Tensor:
    return (1 - variant.lambda_init) * torch.nn.functional.rms_norm(value, (2 * D,), eps=1e-5)


def test_differential_with_lambda_zero_is_normalised_attention_on_wide_values() -> None:
    variant = lambda_set_to(made("differential"), 0.0)
    x = inputs()
    wide = torch.cat([x["value"][:, : H // 2], x["value"][:, H // 2 :]], dim=-1)
    plain = Variant(layer())(
        x["query"][:, : H // 2], x["key"][:, : H // 2], wide, x["mask"], scaling=SCALE
    )[0]
    torch.testing.assert_close(output(variant), normed(variant, plain))


def test_differential_rows_sum_to_one_minus_lambda() -> None:
    variant = lambda_set_to(made("differential"), 0.3)
    x = inputs()
    maps = variant(**x)[1]
    signed = maps[:, : H // 2] - 0.3 * maps[:, H // 2 :]
    torch.testing.assert_close(signed.sum(-1), torch.full_like(signed.sum(-1), 0.7))
    assert (signed < 0).any()
    ones = torch.ones_like(x["value"])
    expected = normed(variant, 0.7 * torch.ones(B, H // 2, T, 2 * D, dtype=torch.float64))
    torch.testing.assert_close(output(variant, value=ones), expected)


def test_differential_with_equal_maps_scales_by_one_minus_lambda() -> None:
    variant = lambda_set_to(made("differential"), 0.4)
    x = inputs()
    twice = {k: x[k][:, : H // 2].repeat(1, 2, 1, 1) for k in ("query", "key")}
    wide = torch.cat([x["value"][:, : H // 2], x["value"][:, H // 2 :]], dim=-1)
    half = {k: v[:, : H // 2] for k, v in twice.items()}
    plain = Variant(layer())(**half, value=wide, mask=x["mask"], scaling=SCALE)[0]
    torch.testing.assert_close(output(variant, **twice), normed(variant, 0.6 * plain))


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_differential_on_llama_is_transformers_difflama(kv_heads: int) -> None:
    sizes = {
        "vocab_size": 61,
        "hidden_size": C,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": H,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32,
    }
    torch.manual_seed(0)
    theirs = DiffLlamaForCausalLM(DiffLlamaConfig(**sizes, attn_implementation="eager")).eval()
    ours = attach(LlamaForCausalLM(LlamaConfig(**sizes)), "differential").eval()
    weights = {
        key.replace("self_attn.lambda", "self_attn.variant.lambda"): value
        for key, value in theirs.state_dict().items()
    }
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert not unexpected and all(key.endswith("variant.norm.weight") for key in missing)
    ids = torch.randint(0, 61, (2, T))
    with torch.no_grad():
        difference = (ours(input_ids=ids).logits - theirs(input_ids=ids).logits).abs().max()
    assert float(difference) < 1e-5


@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (4, 1), (6, 3)])
def test_heads_that_cannot_be_paired_are_refused(heads: int, kv_heads: int) -> None:
    with pytest.raises(ConfigError, match="cannot be paired"):
        made("differential", layer(heads=heads, kv_heads=kv_heads))


def test_a_width_that_does_not_split_over_heads_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not split"):
        made("gated-linear", layer(heads=5))


def test_differential_v2_is_the_difference_of_two_queries() -> None:
    variant = made("differential-v2")
    x = inputs()
    second = (x["layer_input"] @ variant.query.weight.T).unflatten(-1, (H, D)).transpose(1, 2)
    plain = Variant(layer())
    maps = [
        plain(q, x["key"], x["value"], x["mask"], scaling=SCALE)[0] for q in (x["query"], second)
    ]
    share = torch.sigmoid(x["layer_input"] @ variant.weight.T + variant.bias)
    expected = maps[0] - share.transpose(1, 2)[..., None] * maps[1]
    torch.testing.assert_close(output(variant), expected)
    with torch.no_grad():
        variant.bias.fill_(-40.0)
    torch.testing.assert_close(output(variant), maps[0], rtol=0, atol=1e-12)


def test_differential_v2_rotates_and_scales_its_query_as_the_family_does() -> None:
    sizes = {"vocab_size": 61, "hidden_size": C, "intermediate_size": 48, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=H, num_key_value_heads=2)
    torch.manual_seed(0)
    model = attach(LlamaForCausalLM(config), "differential-v2").eval()
    attention = model.model.layers[0].self_attn
    ids = torch.randint(0, 61, (2, T))
    with torch.no_grad():
        # the same query twice with λ = 1 subtracts the output from itself
        attention.variant.query.weight.copy_(attention.q_proj.weight)
        attention.variant.weight.zero_()
        attention.variant.bias.fill_(40.0)
        seen: list[torch.Tensor] = []
        attention.o_proj.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
        model(input_ids=ids)
    assert float(seen[0].abs().max()) < 1e-6
