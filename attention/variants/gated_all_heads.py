"""Gated attention, one linear map of the whole layer's input to the gates of all heads.

output_h = σ(x·w_h + b_h) ⊙ softmax(QKᵀ/√D)·V with x (B, T, C), w_h (C,). H·(C + 1)
parameters; b starts at logit(π_init).

References:
    Bondarenko, Nagel, Blankevoort 2023, arXiv:2306.12929, equations 5-7, table 3.
"""

from __future__ import annotations

import torch

from attention.gating import Gated, initial_weights
from attention.variant import Layer


class GatedAllHeads(Gated):
    """See the module's docstring.

    Args:
        layer: Where it is put.
        pi_init: 0 < π < 1, how open gates start.

    Raises:
        ConfigError: If pi_init is out of range.
    """

    def __init__(self, layer: Layer, *, pi_init: float = 0.5) -> None:
        super().__init__(layer, pi_init)
        self.weight = initial_weights(layer.heads, layer.width)
        self.bias = torch.nn.Parameter(torch.full((layer.heads,), self.initial_bias))

    def logits(self, layer_input: torch.Tensor) -> torch.Tensor:
        """Return (B, T, H)."""
        return torch.nn.functional.linear(layer_input, self.weight, self.bias)


VARIANT = GatedAllHeads
