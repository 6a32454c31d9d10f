"""Put an attention variant into a transformers model, and read it back from a checkpoint.

One attention function and one mask function are registered with transformers
under the name ``trueint8``; the variant and its parameters live in the model's
configuration, so that ``save_pretrained`` keeps them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from attention.variants import VARIANTS
from trueint8.errors import ConfigError

IMPLEMENTATION = "trueint8"
CONFIG_KEY = "attention_variant"
_CHANGES_SCORES = ("position_bias", "s_aux", "softcap")


def attach(model: Any, variant: str, **parameters: float) -> Any:
    """Make every attention layer of ``model`` use ``variant``.

    Args:
        model: A transformers model whose attention goes through its attention interface.
        variant: A name in ``attention/variants``.
        **parameters: Passed to the variant, such as ``gamma=-0.03``.

    Returns:
        The same model.

    Raises:
        UnknownName: If there is no such variant.
        ConfigError: If the variant has no such parameter or refuses its value,
            or the model's attention cannot be replaced.
    """
    check_variant(variant, **parameters)
    if not getattr(model, "_supports_attention_backend", False):
        raise ConfigError(
            f"{type(model).__name__} does not go through transformers' attention interface",
            fix="use a family that does, such as BERT, RoBERTa, OPT, GPT-2 or Llama",
        )
    model.set_attn_implementation(IMPLEMENTATION)
    setattr(model.config, CONFIG_KEY, {"name": variant, **parameters})
    return model


def check_variant(name: str, **parameters: float) -> None:
    """Refuse an unknown variant, parameter or value.

    Raises:
        UnknownName: If there is no such variant.
        ConfigError: If it has no such parameter, or refuses the value.
    """
    allowed = list(inspect.signature(VARIANTS.load(name)).parameters)[1:]
    unknown = sorted(set(parameters) - set(allowed))
    if unknown:
        raise ConfigError(
            f"variant {name!r} has no parameter {unknown[0]!r}",
            fix=f"it takes: {', '.join(allowed) or 'none'}",
        )
    VARIANTS.load(name)(torch.zeros(1, 1, 1, 1), **parameters)


def attention_forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute P·V with P from the module's variant; two explicit matmuls.

    Args:
        module: The attention layer; its ``config`` names the variant.
        query: (B, H, T, D).
        key: (B, H_kv, T, D); H_kv divides H.
        value: (B, H_kv, T, D).
        attention_mask: Added to the scores, broadcastable to (B, H, T, T), or None.
        scaling: Factor on QKᵀ; None means 1/√D.
        dropout: Probability of dropping an attention weight while training.
        **kwargs: Whatever else the model passes; not used.

    Returns:
        Output (B, T, H, D) and P (B, H, T, T).

    Raises:
        ConfigError: If the model passes something that changes the scores.
    """
    changing = [name for name in _CHANGES_SCORES if kwargs.get(name) is not None]
    if changing:
        raise ConfigError(
            f"{type(module).__name__} uses {changing[0]}, which the variants do not know",
            fix="use a model family with plain scaled dot-product attention",
        )
    settings = dict(getattr(module.config, CONFIG_KEY, None) or {"name": "vanilla"})
    probabilities: Callable[..., torch.Tensor] = VARIANTS.load(settings.pop("name"))
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query, key.transpose(2, 3)) * scale
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = probabilities(scores, **settings)
    weights = torch.nn.functional.dropout(weights, p=dropout, training=module.training)
    output = torch.matmul(weights, value).transpose(1, 2).contiguous()
    return output, weights


def additive_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., torch.Tensor] = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> torch.Tensor:
    """Return 0 where attention is allowed and the dtype's minimum elsewhere.

    The index pattern is evaluated by broadcasting and the padding mask joined
    by a plain product, so that the exported graph holds neither a gather by
    index nor a mask larger than needed: (B, 1, 1, T) without causality.
    """
    del batch_size, kwargs
    zero = torch.zeros((1, 1, 1, 1), dtype=torch.long, device=device)
    rows = (torch.arange(q_length, device=device) + q_offset)[None, None, :, None]
    columns = (torch.arange(kv_length, device=device) + kv_offset)[None, None, None, :]
    allowed = mask_function(zero, zero, rows, columns)
    if attention_mask is not None:
        seen = attention_mask[:, None, None, kv_offset : kv_offset + kv_length]
        allowed = allowed & seen.to(torch.bool)
    blocked = torch.tensor(torch.finfo(dtype).min, dtype=dtype, device=device)
    return torch.where(allowed, torch.zeros((), dtype=dtype, device=device), blocked)


AttentionInterface.register(IMPLEMENTATION, attention_forward)
AttentionMaskInterface.register(IMPLEMENTATION, additive_mask)
