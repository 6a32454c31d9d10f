"""Softmax attention."""

from __future__ import annotations

import torch


def attention_probabilities(scores: torch.Tensor) -> torch.Tensor:
    """Return softmax(scores) over the last axis.

    Args:
        scores: QKᵀ/√D plus the mask, (B, H, T, T).

    Returns:
        Probabilities in [0, 1] whose rows sum to 1, (B, H, T, T).

    References:
        Vaswani et al. 2017, arXiv:1706.03762, equation 1.
    """
    return torch.softmax(scores, dim=-1)
