"""Train a small BERT encoder with an attention variant, on any machine, in a given time.

The text is one stream of tokens. A batch is B windows of T tokens that start
anywhere in it, each framed by [CLS] and [SEP], so nothing is padded.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from attention.attaching import attach
from attention.encoder_recipe import EncoderRecipe, rate_factor
from attention.initialization import start_from_text
from attention.masked_lm import (
    Tokens,
    draw_windows,
    mask_tokens,
    masked_loss,
    token_stream,
)
from trueint8.errors import ConfigError
from trueint8.progress import Progress

__all__ = [
    "EncoderRecipe",
    "TrainingSummary",
    "initial_encoder",
    "train_encoder",
]

_REPORTS = 8
_CHECKPOINT_EVERY_S = 120.0
_BETAS = (0.9, 0.98)
_LARGEST_GRADIENT = 1.0


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """What a training run did; losses are nats per masked token of the training text.

    Attributes:
        variant: Name in ``attention/variants``.
        steps: Optimizer steps done.
        tokens: Tokens seen, [CLS] and [SEP] among them.
        seconds: Wall clock from the call to the last step.
        first_loss: Of the first step, before any update.
        last_loss: Mean over the last tenth of the steps.
    """

    variant: str
    steps: int
    tokens: int
    seconds: float
    first_loss: float
    last_loss: float


def train_encoder(
    recipe: EncoderRecipe,
    texts: Sequence[str],
    out: Path,
    *,
    variant: str,
    parameters: dict[str, float],
    tokenizer: PreTrainedTokenizerFast,
    progress: Progress,
) -> TrainingSummary:
    """Train a BERT masked LM and write it, with its tokenizer, as a checkpoint.

    Float32 throughout: bfloat16 autocast was slower on a processor with AVX-512
    BF16. No dropout: a short run does not see its text often enough to overfit. The
    same recipe with ``steps``, texts, machine and threads gives the same weights. A
    run of more than two minutes renews the checkpoint in ``out`` every two minutes.

    Args:
        recipe: Architecture, optimizer, and when to stop.
        texts: Training documents.
        out: An existing folder to fill, such as ``staged_folder`` yields.
        variant: A name in ``attention/variants``.
        parameters: The variant's, such as ``{"gamma": -0.025}``.
        tokenizer: As ``train_tokenizer`` makes it.
        progress: Gets one step and a line with the loss now and then.

    Returns:
        Steps, time and losses.

    Raises:
        UnknownName: If there is no such variant.
        ConfigError: If the loss stops being finite, the time is over before the
            first step, or recipe, variant and tokenizer do not fit each other.
        DataError: If there is less text than one window.

    References:
        Devlin et al. 2019, arXiv:1810.04805: what is masked, and how. AdamW:
        Loshchilov and Hutter 2019, arXiv:1711.05101.
    """
    start = time.monotonic()
    stream = token_stream(tokenizer, texts, at_least=recipe.sequence)
    model = initial_encoder(recipe, tokenizer, stream, variant, parameters)
    if recipe.seconds is not None and time.monotonic() - start >= recipe.seconds:
        raise ConfigError(
            f"seconds={recipe.seconds} were over before the first step",
            fix="give more seconds or less text",
        )
    run = _Run(recipe, model, tokenizer, stream, start, out)
    unit = "s" if recipe.seconds is not None else "steps"
    with progress.step(f"training {variant} ({unit})", total=run.units()) as advance:
        run.to_the_end(advance, progress.say)
    run.save()
    return run.summary(variant)


def initial_encoder(
    recipe: EncoderRecipe,
    tokenizer: PreTrainedTokenizerFast,
    stream: Tokens,
    variant: str,
    parameters: dict[str, float],
) -> Any:
    """Return the untrained BertForMaskedLM, started from the text's statistics.

    The global random state is left as it was.

    Raises:
        ConfigError: If the tokenizer has more tokens than the recipe.
        UnknownName: If there is no such variant.
    """
    if len(tokenizer) > recipe.vocab_size:
        raise ConfigError(
            f"the tokenizer has {len(tokenizer)} tokens, the recipe vocab_size={recipe.vocab_size}",
            fix=f"pass vocab_size={len(tokenizer)}",
        )
    config = BertConfig(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.ffn,
        max_position_embeddings=recipe.sequence,
        type_vocab_size=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = BertForMaskedLM(config)
        start_from_text(model, stream)
    return attach(model, variant, **parameters)


class _Run:
    """One training run: model, optimizer, clock and the losses so far."""

    def __init__(
        self,
        recipe: EncoderRecipe,
        model: Any,
        tokenizer: PreTrainedTokenizerFast,
        stream: Tokens,
        start: float,
        out: Path,
    ) -> None:
        self.recipe = recipe
        self.model = model.train()
        self.tokenizer = tokenizer
        self.stream = stream
        self.rng = np.random.default_rng(recipe.seed)
        self.optimizer = _optimizer(model, recipe)
        self.start = start
        self.out = out
        self.first_step = self.saved = time.monotonic()
        self.losses: list[float] = []
        self.tokens = 0

    def units(self) -> int:
        """Return how much the progress bar counts: seconds if they are bounded, or steps."""
        if self.recipe.seconds is not None:
            return max(1, round(self.recipe.seconds))
        return self.recipe.steps or 1

    def done(self) -> float:
        """Return the share of the run that is over, by steps or by time, whichever is more."""
        share = 0.0
        if self.recipe.steps is not None:
            share = len(self.losses) / self.recipe.steps
        if self.recipe.seconds is not None:
            end = self.start + self.recipe.seconds
            spent = time.monotonic() - self.first_step
            share = max(share, spent / max(end - self.first_step, 1e-9))
        return share

    def to_the_end(self, advance: Callable[[int], None], say: Callable[[str], None]) -> None:
        """Step until done; report the loss and the progress on the way."""
        shown, reports = 0, 0
        while (share := self.done()) < 1.0 or not self.losses:
            self._step(share)
            units = min(self.units(), int(self.units() * self.done()))
            advance(units - shown)
            shown = units
            if self.done() * _REPORTS >= reports + 1:
                reports += 1
                recent = self.losses[-max(1, len(self.losses) // _REPORTS) :]
                say(f"step {len(self.losses)}: masked-LM loss {np.mean(recent):.3f} nats")
            if time.monotonic() - self.saved >= _CHECKPOINT_EVERY_S:
                self.save()

    def save(self) -> None:
        """Write the checkpoint as it is now."""
        with _no_foreign_bars():
            self.model.save_pretrained(self.out)
            self.tokenizer.save_pretrained(self.out)
        self.saved = time.monotonic()

    def summary(self, variant: str) -> TrainingSummary:
        """Return what was done."""
        return TrainingSummary(
            variant=variant,
            steps=len(self.losses),
            tokens=self.tokens,
            seconds=time.monotonic() - self.start,
            first_loss=self.losses[0],
            last_loss=float(np.mean(self.losses[-max(1, len(self.losses) // 10) :])),
        )

    def _step(self, share: float) -> None:
        r = self.recipe
        ids = draw_windows(self.rng, self.tokenizer, self.stream, r.batch_size, r.sequence)
        batch = mask_tokens(self.rng, self.tokenizer, ids, r.mask_probability)
        rate = r.learning_rate * rate_factor(share, r.warm_up, r.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = masked_loss(self.model, *batch)
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), _LARGEST_GRADIENT)
        if not torch.isfinite(loss + norm):
            raise ConfigError(
                f"the masked-LM loss or its gradient is not finite at step {len(self.losses)}",
                fix=f"lower learning_rate={r.learning_rate}",
            )
        self.optimizer.step()
        self.losses.append(loss.item())
        self.tokens += ids.size


def _optimizer(model: Any, recipe: EncoderRecipe) -> Any:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=_BETAS, fused=True)


@contextlib.contextmanager
def _no_foreign_bars() -> Iterator[None]:
    """Keep transformers from drawing its own progress bars into ours."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
