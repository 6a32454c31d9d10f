"""Softmax with one silent key: weights may sum to less than 1.

P_ts = exp(x_ts) / (1 + Σ_s exp(x_ts)), (B, H, T, S): softmax over the scores with one
zero logit appended, whose value vector is zero.

Computed as softmax(x)·σ(lse(x)), which is the same: with L = Σ exp(x), softmax
is exp(x)/L, and L/(1 + L) = σ(log L). The factor is one number per row, so it
multiplies the output instead of the weights, and softmax stays one operator
that engines fuse. log L needs no second exponential: lse(x) = max x − log max softmax(x).

References:
    Miller 2023, "Attention is off by one"; Gu et al. 2024, arXiv:2410.10781.
"""

from __future__ import annotations

import torch

from attention.variant import Variant


def log_sum_exp(scores: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return log Σ exp(scores) per row, (B, H, T, 1), given weights = softmax(scores)."""
    return scores.amax(dim=-1, keepdim=True) - torch.log(weights.amax(dim=-1, keepdim=True))


class Softmax1(Variant):
    """See the module's docstring; it has no hyper-parameters."""

    def gate(
        self, scores: torch.Tensor, weights: torch.Tensor, layer_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Return σ(lse(scores)), (B, H, T, 1): what the silent key leaves to the others."""
        del layer_input
        return torch.sigmoid(log_sum_exp(scores, weights))


VARIANT = Softmax1
