"""Differential attention, second version: two queries per head on the same keys and values.

    O_h = A1·V − λ_h·A2·V,  A1, A2 = softmax(Q₁Kᵀ/√D), softmax(Q₂Kᵀ/√D)
    λ_h = σ(x·w_h + b_h), one number per head and token, x (B, T, C) the layer's input

No norm, no λ_init; the output keeps the width of plain attention, (B, H, T, D). Q₁
is the model's own query; Q₂ has its own projection of C·H·D weights, where the
published code doubles one projection: the same up to the order of the heads.
The bias b is ours: it lets a pretrained model start with λ close to 0.

References:
    Microsoft 2026, "Differential Transformer V2", unilm/Diff-Transformer.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from attention.gating import initial_weights
from attention.variant import Layer, Rotary, Variant, attention_scores
from trueint8.errors import ConfigError

_ALMOST_NONE = 0.01


class DifferentialV2(Variant):
    """See the module's docstring.

    Args:
        layer: Where it is put.
        lambda_init: σ(b) at the start, 0 < λ < 1.

    Raises:
        ConfigError: If lambda_init is out of range.
    """

    reads_layer_input = True

    def __init__(self, layer: Layer, *, lambda_init: float = 0.5) -> None:
        super().__init__(layer)
        if not 0.0 < lambda_init < 1.0:
            raise ConfigError(
                f"lambda_init={lambda_init} is out of range; expected 0 < lambda_init < 1",
                fix="pass lambda_init=0.5",
            )
        self.query = torch.nn.Linear(layer.width, layer.heads * layer.head_width, bias=False)
        self.query.weight = initial_weights(layer.heads * layer.head_width, layer.width)
        self.weight = initial_weights(layer.heads, layer.width)
        bias = math.log(lambda_init / (1.0 - lambda_init))
        self.bias = torch.nn.Parameter(torch.full((layer.heads,), bias))

    @classmethod
    def open_parameters(cls) -> dict[str, Any]:
        """Return a second map that is subtracted by a hundredth."""
        return {"lambda_init": _ALMOST_NONE}

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        *,
        scaling: float,
        dropout: float = 0.0,
        layer_input: torch.Tensor | None = None,
        rotary: Rotary | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute the attention output; see ``Variant.forward``.

        Returns:
            Output (B, H, T, D); and A1 (B, H, T, S).
        """
        assert layer_input is not None, "attach() makes the model pass the layer's input"
        second = self._second_query(layer_input, rotary)
        intended = scaling if self.layer.scaling is None else self.layer.scaling
        maps = (
            torch.softmax(attention_scores(query, key, mask, scaling), dim=-1),
            torch.softmax(attention_scores(second, key, mask, intended), dim=-1),
        )
        first, minus = (torch.matmul(self.dropped(a, dropout), value) for a in maps)
        share = torch.sigmoid(torch.nn.functional.linear(layer_input, self.weight, self.bias))
        return first - share.transpose(1, 2).unsqueeze(-1) * minus, maps[0]

    def _second_query(self, layer_input: torch.Tensor, rotary: Rotary | None) -> torch.Tensor:
        """Return Q₂ (B, H, T, D), rotated as the family rotates its own."""
        second = self.query(layer_input).unflatten(-1, (self.layer.heads, -1)).transpose(1, 2)
        if rotary is None or self.layer.rotate is None:
            return second
        rotated: torch.Tensor = self.layer.rotate(second, second, *rotary)[0]
        return rotated


VARIANT = DifferentialV2
