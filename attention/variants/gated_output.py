"""Output gate: a sigmoid of the layer's input on the attention output, before its projection.

Y' = Y ⊙ σ(x·W + b), with Y (B, T, H·D) the heads' softmax(QKᵀ/√D)·V, x (B, T, C). Head-wise, W is
(C, H) and one number scales a head; element-wise, W is (C, H·D).

The paper's gate has no bias. Here b starts at logit(π_init), 0 by default, so that a
pretrained model can start with open gates.

References:
    Qiu et al. 2025, "Gated Attention for Large Language Models", arXiv:2505.06708.
"""

from __future__ import annotations

import torch

from attention.gating import Gated, initial_weights
from attention.variant import Layer
from trueint8.errors import ConfigError

_GRANULARITIES = ("head", "element")


class GatedOutput(Gated):
    """See the module's docstring.

    Args:
        layer: Where it is put.
        granularity: ``head`` or ``element``.
        pi_init: 0 < π < 1, how open gates start.

    Raises:
        ConfigError: If a value is out of range.
    """

    def __init__(self, layer: Layer, *, granularity: str = "element", pi_init: float = 0.5) -> None:
        super().__init__(layer, pi_init)
        if granularity not in _GRANULARITIES:
            raise ConfigError(
                f"granularity={granularity!r} is neither head nor element",
                fix="pass granularity=head or granularity=element",
            )
        gates = layer.heads * (layer.head_width if granularity == "element" else 1)
        self.weight = initial_weights(gates, layer.width)
        self.bias = torch.nn.Parameter(torch.full((gates,), self.initial_bias))

    def logits(self, layer_input: torch.Tensor) -> torch.Tensor:
        """Return (B, T, H) or (B, T, H·D)."""
        return torch.nn.functional.linear(layer_input, self.weight, self.bias)


VARIANT = GatedOutput
