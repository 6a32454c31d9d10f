"""Clipped softmax whose γ follows the number of keys each token sees.

P = clip((1 − γ_t)·softmax(QKᵀ/√D) + γ_t, 0, 1) with γ_t = −α/n_t, where n_t counts
the keys that token t may attend to: all real tokens in an encoder, t + 1 in a
decoder. Before clipping every row then sums to 1 − α + α/n_t whatever the
length, so that what was learnt at one length, or at the end of a causal
sequence, holds at another; plain clipped softmax fails on causal models.

The paper's text is not open to us in full; γ_t follows its abstract and a
summary of its method (normalisation invariant to the sequence length, adapted
to each row of a causal mask). Its constants may differ.

References:
    Liao and Monz 2024, "Is It a Free Lunch for Removing Outliers during
    Pretraining?", arXiv:2402.12102.
"""

from __future__ import annotations

import torch

from attention.variant import Layer, Variant
from trueint8.errors import ConfigError

_BLOCKED = -1.0
"""Additive masks hold 0 where attention is allowed, and far less than this elsewhere."""


class NormalizedClipped(Variant):
    """See the module's docstring.

    Args:
        layer: Where it is put.
        alpha: α >= 0; 0 is softmax.

    Raises:
        ConfigError: If alpha is negative.
    """

    single_precision = True

    def __init__(self, layer: Layer, *, alpha: float = 3.2) -> None:
        super().__init__(layer)
        if alpha < 0:
            raise ConfigError(
                f"alpha={alpha} is out of range; expected alpha >= 0", fix="pass alpha=3.2"
            )
        self.alpha = alpha

    def probabilities(self, scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the clipped weights, (B, H, T, S) in [0, 1]."""
        gamma = -self.alpha / self._visible(scores, mask)
        stretched = (1.0 - gamma) * torch.softmax(scores, dim=-1) + gamma
        return torch.clip(stretched, 0.0, 1.0)

    @staticmethod
    def _visible(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | int:
        """Return n_t >= 1, broadcastable to (B, H, T, 1)."""
        if mask is None:
            return scores.shape[-1]
        allowed = (mask > _BLOCKED).to(scores.dtype).sum(dim=-1, keepdim=True)
        if mask.shape[-1] == 1:
            allowed = allowed * scores.shape[-1]
        return torch.clamp(allowed, min=1.0)


VARIANT = NormalizedClipped
