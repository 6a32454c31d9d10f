"""Softmax with one silent key per head whose logit is learned.

P_ts = exp(x_ts) / (exp(s_h) + Σ_s exp(x_ts)), (B, H, T, S), with s_h one parameter per
head: softmax over the scores with s_h appended, its column dropped. Softmax1 is s_h = 0.

Computed as softmax(x)·σ(lse(x) − s_h) on the output, as in ``softmax1``; gpt-oss
concatenates the column and drops it, with the same result.

References:
    Agarwal et al. 2025, gpt-oss model card, arXiv:2508.10925.
"""

from __future__ import annotations

from typing import Any

import torch

from attention.variant import Layer, Variant
from attention.variants.softmax1 import log_sum_exp


class LearnedSink(Variant):
    """See the module's docstring.

    Args:
        layer: Where it is put.
        sink_init: s_h at the start.
    """

    def __init__(self, layer: Layer, *, sink_init: float = 0.0) -> None:
        super().__init__(layer)
        self.sinks = torch.nn.Parameter(torch.full((layer.heads,), float(sink_init)))

    @classmethod
    def open_parameters(cls) -> dict[str, Any]:
        """Return sinks that take next to nothing."""
        return {"sink_init": -5.0}

    def gate(
        self, scores: torch.Tensor, weights: torch.Tensor, layer_input: torch.Tensor | None
    ) -> torch.Tensor:
        """Return σ(lse(scores) − s), (B, H, T, 1)."""
        del layer_input
        return torch.sigmoid(log_sum_exp(scores, weights) - self.sinks[:, None, None])


VARIANT = LearnedSink
