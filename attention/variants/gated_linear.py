"""Gated attention, one linear gate per head on the head's own slice of the layer's input.

output_h = σ(x_h·w_h + b_h) ⊙ softmax(QKᵀ/√D)·V, one number per head and token, where
x_h (B, T, C/H) is head h's slice of the layer's input and w_h (C/H,). H·(C/H + 1)
parameters; b starts at logit(π_init), so that gates start open by π_init.

The H small products are one matmul with a block-diagonal matrix (C, H).
Weights start N(0, 0.02²), where the paper's code has its framework's default.

References:
    Bondarenko, Nagel, Blankevoort 2023, arXiv:2306.12929, equations 5-7, table 3.
"""

from __future__ import annotations

import torch

from attention.gating import Gated, block_diagonal, initial_weights, slice_width
from attention.variant import Layer


class GatedLinear(Gated):
    """See the module's docstring.

    Args:
        layer: Where it is put.
        pi_init: π_init, 0 < π < 1; good in the paper: BERT 0.25 to 0.9, ViT 0.1 to 0.5.

    Raises:
        ConfigError: If pi_init is out of range or C does not split over the heads.
    """

    def __init__(self, layer: Layer, *, pi_init: float = 0.5) -> None:
        super().__init__(layer, pi_init)
        self.weight = initial_weights(layer.heads, slice_width(layer))
        self.bias = torch.nn.Parameter(torch.full((layer.heads,), self.initial_bias))

    def logits(self, layer_input: torch.Tensor) -> torch.Tensor:
        """Return (B, T, H)."""
        return torch.matmul(layer_input, block_diagonal(self.weight[:, :, None])) + self.bias


VARIANT = GatedLinear
