"""Three changes of architecture from the papers that are not attention variants.

``config.architecture_changes`` remembers them, so that a checkpoint is rebuilt as it
was trained:

* ``patch_norm: true``: LayerNorm on the patch embeddings of a vision transformer.
* ``attention_free_layers: [0, ...]``: blocks that are a feed-forward network only.
* ``norm_bias: false``: LayerNorm with a gain alone.

References:
    Patch norm: Bondarenko et al. 2023, arXiv:2306.12929, appendix B.4. Attention in the
    later blocks only: Guo et al. 2024, arXiv:2410.13835.
"""

from __future__ import annotations

from typing import Any

import torch

from trueint8.errors import ConfigError

CHANGES_KEY = "architecture_changes"
_KNOWN = ("attention_free_layers", "norm_bias", "patch_norm")
_OWN_PROJECTIONS = ("o_proj", "out_proj", "c_proj")


class NoAttention(torch.nn.Module):
    """Stands where an attention module stood and adds nothing to the residual stream."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[Any, None]:
        """Return a scalar zero, which broadcasts in the residual sum, and no weights."""
        del args, kwargs
        return hidden_states.new_zeros(()), None


def change_architecture(model: Any, attention_modules: list[tuple[str, Any]]) -> None:
    """Make the changes that the model's configuration names, in place.

    Args:
        model: A transformers model.
        attention_modules: Name and module of each attention layer, first to last.

    Raises:
        ConfigError: If a change is unknown or this family cannot make it.
    """
    changes = dict(getattr(model.config, CHANGES_KEY, None) or {})
    unknown = sorted(set(changes) - set(_KNOWN))
    if unknown:
        raise ConfigError(
            f"architecture_changes names {unknown[0]!r}", fix=f"it may hold: {', '.join(_KNOWN)}"
        )
    if changes.get("patch_norm"):
        _normalize_patches(model)
    if not changes.get("norm_bias", True):
        _drop_norm_biases(model)
    for index in changes.get("attention_free_layers", ()):
        _remove_attention(model, attention_modules, index)


def _remove_attention(model: Any, attention_modules: list[tuple[str, Any]], index: int) -> None:
    if not 0 <= index < len(attention_modules):
        raise ConfigError(
            f"attention_free_layers names layer {index} of {len(attention_modules)}",
            fix="count layers from 0",
        )
    name, module = attention_modules[index]
    if not any(hasattr(module, own) for own in _OWN_PROJECTIONS):
        raise ConfigError(
            f"{type(module).__name__} cannot be left out: its output projection is another module",
            fix="use OPT, GPT-2, Llama, Qwen2 or ViT for attention_free_layers",
        )
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, NoAttention())


def _drop_norm_biases(model: Any) -> None:
    found = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    if not found:
        raise ConfigError(
            f"{type(model).__name__} has no LayerNorm", fix="leave norm_bias out of the changes"
        )
    for module in found:
        module.register_parameter("bias", None)


def _normalize_patches(model: Any) -> None:
    found = [m for n, m in model.named_modules() if n.endswith("patch_embeddings")]
    if not found:
        raise ConfigError(
            f"{type(model).__name__} has no patch embeddings to normalize",
            fix="use patch_norm with a vision transformer",
        )
    for module in found:
        norm = torch.nn.LayerNorm(model.config.hidden_size, eps=model.config.layer_norm_eps)
        module.add_module("norm", norm.to(device=model.device, dtype=model.dtype))
        module.register_forward_hook(_normalized)


def _normalized(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
    """Return LayerNorm of the embeddings (B, patches, C)."""
    del args
    normalized: torch.Tensor = module.norm(output)
    return normalized
