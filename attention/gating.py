"""What gated variants share: a sigmoid gate on the attention output, open by a chosen share."""

from __future__ import annotations

import math
from typing import Any

import torch

from attention.variant import Layer, Variant
from trueint8.errors import ConfigError

OPEN = 0.99
"""Share to which gates open in a pretrained model: close to 1, with a gradient left to learn."""

_WEIGHT_STD = 0.02


class Gated(Variant):
    """Attention output ⊙ σ(logits), where a subclass computes logits from the layer's input."""

    reads_layer_input = True

    def __init__(self, layer: Layer, pi_init: float) -> None:
        super().__init__(layer)
        if not 0.0 < pi_init < 1.0:
            raise ConfigError(
                f"pi_init={pi_init} is out of range; expected 0 < pi_init < 1",
                fix="pass the share to which gates are open at first, such as pi_init=0.5",
            )
        self.initial_bias = math.log(pi_init / (1.0 - pi_init))

    @classmethod
    def open_parameters(cls) -> dict[str, Any]:
        """Return gates that are almost open."""
        return {"pi_init": OPEN}

    def logits(self, layer_input: torch.Tensor) -> torch.Tensor:
        """Return the gate before the sigmoid, (B, T, H) or (B, T, H·D), from (B, T, C)."""
        raise NotImplementedError

    def gate(
        self, scores: torch.Tensor, weights: torch.Tensor, layer_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Return σ(logits) as (B, H, T, 1) or (B, H, T, D)."""
        del scores, weights
        assert layer_input is not None, "attach() makes the model pass the layer's input"
        opened = torch.sigmoid(self.logits(layer_input))
        return opened.unflatten(-1, (self.layer.heads, -1)).transpose(1, 2)


def slice_width(layer: Layer) -> int:
    """Return C/H, the part of the layer's input that one head's gate reads.

    Raises:
        ConfigError: If the width does not split evenly over the heads.
    """
    if layer.width % layer.heads:
        raise ConfigError(
            f"a width of {layer.width} does not split over {layer.heads} heads, and each head's "
            "gate reads its own slice",
            fix="use gated-all-heads, whose gates read the whole input",
        )
    return layer.width // layer.heads


def initial_weights(*shape: int) -> torch.nn.Parameter:
    """Return a trainable N(0, 0.02²) tensor: gates start near their bias."""
    return torch.nn.Parameter(torch.randn(*shape) * _WEIGHT_STD)


def block_diagonal(weight: torch.Tensor) -> torch.Tensor:
    """Return (H·d, H·n) with weight (H, d, n) on the diagonal: one matmul for all heads."""
    heads, inner, outer = weight.shape
    identity = torch.eye(heads, dtype=weight.dtype, device=weight.device)
    spread = weight[:, :, None, :] * identity[:, None, :, None]
    return spread.reshape(heads * inner, heads * outer)
