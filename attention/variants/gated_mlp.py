"""Gated attention, one small network per head on the head's own slice of the layer's input.

output_h = σ(relu(x_h·U_h + c_h)·w_h + b_h) ⊙ softmax(QKᵀ/√D)·V with x_h (B, T, C/H),
U_h (C/H, n_hid), w_h (n_hid,). H·(n_hid·(C/H + 2) + 1) parameters.

The paper's text says n_hid = 4, which is the default here; its code uses D/4, and
applies π_init to linear gates only, where here b starts at logit(π_init) as well.

References:
    Bondarenko, Nagel, Blankevoort 2023, arXiv:2306.12929, equations 5-7, table 3.
"""

from __future__ import annotations

import torch

from attention.gating import Gated, block_diagonal, initial_weights, slice_width
from attention.variant import Layer
from trueint8.errors import ConfigError


class GatedMLP(Gated):
    """See the module's docstring.

    Args:
        layer: Where it is put.
        pi_init: 0 < π < 1, how open gates start.
        hidden: n_hid >= 1.

    Raises:
        ConfigError: If a value is out of range or C does not split over the heads.
    """

    def __init__(self, layer: Layer, *, pi_init: float = 0.5, hidden: int = 4) -> None:
        super().__init__(layer, pi_init)
        if hidden < 1:
            raise ConfigError(
                f"hidden={hidden} is out of range; expected hidden >= 1", fix="pass hidden=4"
            )
        self.hidden_weight = initial_weights(layer.heads, slice_width(layer), hidden)
        self.hidden_bias = torch.nn.Parameter(torch.zeros(layer.heads, hidden))
        self.weight = initial_weights(layer.heads, hidden)
        self.bias = torch.nn.Parameter(torch.full((layer.heads,), self.initial_bias))

    def logits(self, layer_input: torch.Tensor) -> torch.Tensor:
        """Return (B, T, H)."""
        hidden = torch.matmul(layer_input, block_diagonal(self.hidden_weight))
        hidden = torch.relu(hidden + self.hidden_bias.flatten())
        return torch.matmul(hidden, block_diagonal(self.weight[:, :, None])) + self.bias


VARIANT = GatedMLP
