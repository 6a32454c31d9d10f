"""Differential attention: the difference of two attention maps.

The H heads of the model become h = H/2 pairs (i, i + h). A pair has two maps
A1, A2 = softmax(Q₁K₁ᵀ/√D), softmax(Q₂K₂ᵀ/√D), and one value of width 2D, the two
heads' values side by side:

    O = (A1 − λ·A2)·V, (B, h, T, 2D)
    λ = exp(λq1·λk1) − exp(λq2·λk2) + λ_init,  λq, λk in R^D, N(0, 0.1²), one set per layer
    λ_init(l) = 0.8 − 0.6·exp(−0.3·(l − 1)),  l = 1 for the first layer
    output = (1 − λ_init)·RMSNorm_2D(O), with a learned gain, eps 1e-5

Computed as A1·V − λ·A2·V, which is the same and keeps two ordinary attentions that
engines can fuse. Weights A1 − λ·A2 are signed, rows sum to 1 − λ. Projections stay as
the model has them, with their biases if it has any; the paper's have none.
Heads are paired as in transformers' DiffLlama, whose norm has no gain.

References:
    Ye et al. 2024, arXiv:2410.05258, equations 1-3.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from attention.variant import Layer, Rotary, Variant, attention_scores
from trueint8.errors import ConfigError

_LAMBDA_STD = 0.1
_EPSILON = 1e-5


class Differential(Variant):
    """See the module's docstring.

    Args:
        layer: Where it is put; the numbers of heads and of key-value heads must be even.

    Raises:
        ConfigError: If the heads cannot be paired.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        if layer.heads % 2 or layer.kv_heads % 2:
            raise ConfigError(
                f"differential attention pairs heads, and {layer.heads} heads with "
                f"{layer.kv_heads} key-value heads cannot be paired",
                fix="use an even number of both, or differential-v2",
            )
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * layer.index)
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            vector = torch.randn(layer.head_width) * _LAMBDA_STD
            self.register_parameter(name, torch.nn.Parameter(vector))
        self.norm = torch.nn.RMSNorm(2 * layer.head_width, eps=_EPSILON)

    @classmethod
    def open_parameters(cls) -> dict[str, Any]:
        """Refuse: paired heads and their norm compute something else from the start."""
        raise ConfigError(
            "a pretrained softmax model cannot be converted to differential attention",
            fix="train it with differential attention, or convert to differential-v2",
        )

    def difference(self) -> torch.Tensor:
        """Return λ, a scalar."""
        first = torch.exp(torch.sum(self.lambda_q1 * self.lambda_k1))
        second = torch.exp(torch.sum(self.lambda_q2 * self.lambda_k2))
        return first - second + self.lambda_init

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
            Output (B, h, T, 2D); and A1 and A2 as (B, H, T, S), or None while training.
        """
        del layer_input, rotary
        wide = torch.cat(value.chunk(2, dim=1), dim=-1)
        pairs = zip(query.chunk(2, dim=1), key.chunk(2, dim=1), strict=True)
        maps = [torch.softmax(attention_scores(q, k, mask, scaling), dim=-1) for q, k in pairs]
        first, second = (torch.matmul(self.dropped(a, dropout), wide) for a in maps)
        output = (1.0 - self.lambda_init) * self.norm(first - self.difference() * second)
        return output, None if self.training else torch.cat(maps, dim=1)


VARIANT = Differential
