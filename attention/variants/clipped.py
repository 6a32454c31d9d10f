"""Clipped softmax: attention that can be exactly zero or one."""

from __future__ import annotations

import torch

from trueint8.errors import ConfigError


def attention_probabilities(
    scores: torch.Tensor, *, gamma: float = -0.025, zeta: float = 1.0
) -> torch.Tensor:
    """Return clip((ζ − γ)·softmax(scores) + γ, 0, 1) over the last axis.

    A head that wants to do nothing can reach exact zeros without pushing its
    logits, and with them the feed-forward outputs, to ever larger values.

    Args:
        scores: QKᵀ/√D plus the mask, (B, H, T, T).
        gamma: γ <= 0. Bondarenko et al. find γ = −α/T with α in [2, 4] to
            carry over between sequence lengths T; −0.025 is theirs for T = 128.
        zeta: ζ >= 1; values above 1 made no difference there.

    Returns:
        Values in [0, 1], (B, H, T, T). Rows need not sum to 1.

    Raises:
        ConfigError: If gamma or zeta is out of range.

    References:
        Bondarenko, Nagel, Blankevoort 2023, arXiv:2306.12929, equation 4.
    """
    if gamma > 0 or zeta < 1:
        raise ConfigError(
            f"gamma={gamma}, zeta={zeta} are out of range; expected gamma <= 0 and zeta >= 1",
            fix="pass gamma=-0.025, or -alpha/T with alpha from 2 to 4",
        )
    stretched = (zeta - gamma) * torch.softmax(scores, dim=-1) + gamma
    return torch.clip(stretched, 0.0, 1.0)
