"""Clipped softmax: attention weights that can be exactly zero or one.

P = clip((ζ − γ)·softmax(QKᵀ/√D) + γ, 0, 1), (B, H, T, S), with ζ >= 1 and γ <= 0.
A head that wants to do nothing reaches exact zeros without pushing its logits,
and with them the feed-forward outputs, to ever larger values. Where P is
clipped its gradient is zero. Rows need not sum to 1.

Only γ < 0 mattered in the paper, and γ = −α/T with α in [2, 4] carried over
between training lengths T. The paper's code takes T from the configured
maximum length; so does ``alpha`` here unless ``length`` is given.

In a half-precision model scores, P and P·V are FP32, so that TensorRT fuses a core
whose Q, K, V and output are quantized.

References:
    Bondarenko, Nagel, Blankevoort 2023, arXiv:2306.12929, equation 4.
"""

from __future__ import annotations

from typing import Any

import torch

from attention.variant import Layer, Variant
from trueint8.errors import ConfigError

_GAMMA = -0.025
"""The paper's for BERT, α = 3.2 at T = 128."""


class Clipped(Variant):
    """See the module's docstring.

    Args:
        layer: Where it is put.
        gamma: γ <= 0; −0.025 if neither this nor ``alpha`` is given.
        zeta: ζ >= 1.
        alpha: α >= 0; γ = −α/T.
        length: T, the length trained at; with ``gamma`` only for the warning when
            another length is deployed.

    Raises:
        ConfigError: If a value is out of range, or ``gamma`` comes with ``alpha``.
    """

    single_precision = True

    def __init__(
        self,
        layer: Layer,
        *,
        gamma: float | None = None,
        zeta: float = 1.0,
        alpha: float | None = None,
        length: int | None = None,
    ) -> None:
        super().__init__(layer)
        if gamma is not None and alpha is not None:
            raise ConfigError("clipped takes gamma or alpha, not both", fix="leave one of them out")
        self.length = layer.length if length is None and alpha is not None else length
        if alpha is not None and (alpha < 0 or not self.length):
            raise ConfigError(
                f"alpha={alpha} needs alpha >= 0 and the training length T",
                fix="pass alpha=3.2 and length=T, or gamma=-alpha/T",
            )
        if alpha is not None and self.length:
            gamma = -alpha / self.length
        self.gamma = _GAMMA if gamma is None else gamma
        self.zeta = zeta
        if self.gamma > 0 or zeta < 1:
            raise ConfigError(
                f"gamma={self.gamma}, zeta={zeta} are out of range; "
                "expected gamma <= 0 and zeta >= 1",
                fix="pass gamma=-0.025, or alpha from 2 to 4",
            )

    def recorded(self) -> dict[str, Any]:
        """Return the training length, if it is known."""
        return {"length": self.length} if self.length else {}

    def deployment_warning(self, length: int) -> str | None:
        """Say that γ was chosen for another length."""
        if self.length in (None, length) or self.gamma == 0:
            return None
        return (
            f"clipped softmax was trained with gamma={self.gamma:g} at {self.length} tokens; at "
            f"{length} it clips another share of the weights. Check accuracy at {length}, or use "
            "normalized-clipped, which does not depend on the length"
        )

    def probabilities(self, scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the clipped, stretched softmax, (B, H, T, S) in [0, 1]."""
        del mask
        stretched = (self.zeta - self.gamma) * torch.softmax(scores, dim=-1) + self.gamma
        return torch.clip(stretched, 0.0, 1.0)


VARIANT = Clipped
