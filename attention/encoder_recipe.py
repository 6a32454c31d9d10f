"""What to train, how, and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trueint8.errors import ConfigError

SMALLEST_VOCAB = 261
"""Five special tokens and 256 bytes."""

_LARGEST_VOCAB = 8192


@dataclass(frozen=True, slots=True)
class EncoderRecipe:
    """Architecture and training of a small masked-LM encoder.

    ``steps`` and ``seconds`` may both be given: the learning rate follows
    whichever is closer to its end, and training stops there.

    Attributes:
        vocab_size: V, rows of the embedding, 261 <= V <= 8192.
        layers: Encoder blocks, >= 1.
        width: C <= V, an even multiple of ``heads``.
        heads: H, >= 1.
        ffn: Width of the feed-forward layers, >= 1.
        sequence: T, with [CLS] and [SEP], >= 8.
        batch_size: Windows per step, >= 1. Small ones suit short runs.
        learning_rate: Peak of AdamW's, > 0.
        warm_up: Share of the run, 0 <= warm_up < 1, over which the rate rises linearly.
        decay: ``linear`` or ``cosine``, to zero at the end of the run.
        weight_decay: On matrices only, >= 0.
        mask_probability: Share of tokens to predict while training, 0 < p < 1. More
            than BERT's 0.15 learns more from each token: Wettig et al. 2023,
            arXiv:2202.08005.
        seed: Of weights, windows and masks.
        steps: Optimizer steps, >= 1, or None.
        seconds: Wall clock from the call to the last step, > 0, or None. Runs bounded
            by the clock differ in their number of steps.
    """

    vocab_size: int = 4096
    layers: int = 4
    width: int = 256
    heads: int = 4
    ffn: int = 1024
    sequence: int = 128
    batch_size: int = 4
    learning_rate: float = 1.4e-3
    warm_up: float = 0.1
    decay: str = "linear"
    weight_decay: float = 0.01
    mask_probability: float = 0.3
    seed: int = 0
    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
            ConfigError: Naming the first field out of range.
        """
        for name, holds, expected in _ranges(self):
            if not holds:
                raise ConfigError(
                    f"{name}={getattr(self, name)} is out of range; expected {expected}",
                    fix=f"pass {name} within that range",
                )
        if self.steps is None and self.seconds is None:
            raise ConfigError(
                "the recipe has no end", fix="pass steps, seconds, or both to EncoderRecipe"
            )


def _ranges(recipe: EncoderRecipe) -> list[tuple[str, bool, str]]:
    r = recipe
    positive = ("layers", "heads", "ffn", "batch_size")
    return [
        *((name, getattr(r, name) >= 1, f"{name} >= 1") for name in positive),
        (
            "vocab_size",
            SMALLEST_VOCAB <= r.vocab_size <= _LARGEST_VOCAB,
            f"{SMALLEST_VOCAB} <= vocab_size <= {_LARGEST_VOCAB}",
        ),
        (
            "width",
            0 < r.width <= r.vocab_size and r.width % (2 * max(r.heads, 1)) == 0,
            "an even multiple of heads, <= vocab_size",
        ),
        ("sequence", r.sequence >= 8, "sequence >= 8"),
        ("learning_rate", r.learning_rate > 0, "learning_rate > 0"),
        ("warm_up", 0 <= r.warm_up < 1, "0 <= warm_up < 1"),
        ("decay", r.decay in ("linear", "cosine"), "linear or cosine"),
        ("weight_decay", r.weight_decay >= 0, "weight_decay >= 0"),
        ("mask_probability", 0 < r.mask_probability < 1, "0 < mask_probability < 1"),
        ("steps", r.steps is None or r.steps >= 1, "steps >= 1"),
        ("seconds", r.seconds is None or r.seconds > 0, "seconds > 0"),
    ]


def rate_factor(share: float, warm_up: float, decay: str) -> float:
    """Return the learning rate as a share of its peak.

    Args:
        share: How much of the run is over, >= 0.
        warm_up: Share of the run over which the rate rises from a hundredth to the peak.
        decay: ``linear`` or ``cosine``, to zero at share 1.

    Returns:
        A factor in [0, 1].
    """
    if share < warm_up:
        return max(0.01, share / warm_up)
    left = max(0.0, (1.0 - share) / (1.0 - warm_up))
    return left if decay == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
