"""What an attention variant is: the module that turns Q, K and V into one layer's attention output.

Axes: B batch, H heads, T query tokens, S key tokens, D head width, C model width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Rotary = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Layer:
    """The attention layer that a variant is put into.

    Attributes:
        heads: H, query heads.
        kv_heads: Key and value heads; divides H.
        head_width: D.
        width: C, of the layer's input.
        index: 0 for the first attention layer.
        length: Longest sequence the model takes, or None if it has no such limit.
        scaling: Factor on QKᵀ that the family means, 1/√D unless it says otherwise.
        rotate: The family's own ``apply_rotary_pos_emb``, or None if it has none.
    """

    heads: int
    kv_heads: int
    head_width: int
    width: int
    index: int = 0
    length: int | None = None
    scaling: float | None = None
    rotate: Callable[..., Any] | None = None


class Variant(torch.nn.Module):
    """softmax(QKᵀ·s + mask)·V, and the two places where a variant departs from it.

    A subclass overrides ``probabilities`` (another function of the scores),
    ``gate`` (a factor on the output), or ``forward`` as a whole. Its keyword
    arguments after ``layer`` are the hyper-parameters that users may set; they
    are stored in the model's configuration.
    """

    reads_layer_input = False
    """Whether ``layer_input`` and ``rotary`` are needed; the model then passes them."""

    single_precision = False
    """Whether scores, weights and their product with V are FP32 in a half-precision model."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    @classmethod
    def open_parameters(cls) -> dict[str, Any]:
        """Return hyper-parameters with which a pretrained softmax model keeps what it computes.

        Raises:
            ConfigError: If no choice of them comes near softmax attention.
        """
        return {}

    def recorded(self) -> dict[str, Any]:
        """Return settings derived from the layer that a checkpoint must remember."""
        return {}

    def deployment_warning(self, length: int) -> str | None:
        """Return what to tell a user who deploys at ``length`` tokens, or None."""
        del length
        return None

    def probabilities(self, scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the attention weights of scores (B, H, T, S), mask added, in the same shape."""
        del mask
        return torch.softmax(scores, dim=-1)

    def gate(
        self, scores: torch.Tensor, weights: torch.Tensor, layer_input: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return a factor on the output, (B, H, T, 1) or (B, H, T, D), or None for 1."""
        del scores, weights, layer_input
        return None

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
        """Compute the attention output.

        Args:
            query: (B, H, T, D).
            key: (B, H, S, D).
            value: (B, H, S, D).
            mask: Added to the scores, broadcastable to (B, H, T, S), or None.
            scaling: Factor on QKᵀ.
            dropout: Probability of dropping an attention weight while training.
            layer_input: (B, T, C), what Q, K and V were projected from.
            rotary: cos and sin of the positions, (B, T, D) each, in families that rotate.

        Returns:
            Output (B, H, T, D); and the weights (B, H, T, S) before any gate, or None.
        """
        del rotary
        given = query.dtype
        if self.single_precision and given.itemsize < torch.float32.itemsize:
            query, key, value = query.float(), key.float(), value.float()
            mask = None if mask is None else mask.float()
        scores = attention_scores(query, key, mask, scaling)
        weights = self.probabilities(scores, mask)
        output = torch.matmul(self.dropped(weights, dropout), value).to(given)
        factor = self.gate(scores, weights, layer_input)
        return (output if factor is None else output * factor), weights

    def dropped(self, weights: torch.Tensor, dropout: float) -> torch.Tensor:
        """Return the weights after dropout, which acts while training only."""
        if dropout == 0.0:
            return weights
        return torch.nn.functional.dropout(weights, p=dropout, training=self.training)


def attention_scores(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Return QKᵀ·scaling + mask, (B, H, T, S)."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    return scores if mask is None else scores + mask
