"""Log-likelihoods of continuations, from the logits of a causal model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calib.inputs import GraphInput
from deploy.bundle import Bundle
from deploy.profiling.evaluation import Run
from deploy.serving.model import DYNAMIC_QUANTIZER
from deploy.sessions import shapes_from_plain
from trueint8.errors import ConfigError, DataError, RunError

Tokens = tuple[int, ...]
Pair = tuple[Sequence[int], Sequence[int]]
"""Context and continuation, as token ids."""

IDS = "input_ids"
_MADE = (IDS, "attention_mask", "position_ids", "token_type_ids")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a batch may be: rows B and tokens T, least and most of each."""

    rows: tuple[int, int]
    tokens: tuple[int, int]


def limits_of(bundle: Bundle, batch_size: int | None) -> Limits:
    """Return what a causal bundle's engines take.

    Args:
        bundle: Any.
        batch_size: Most rows; as many as the engines take if None.

    Raises:
        ConfigError: If the bundle is no causal language model over text, has no tokenizer, or
            takes inputs that nothing here can make.
    """
    model = bundle.manifest.model
    if model.task != "text-generation":
        raise ConfigError(
            f"{bundle.path} is for {model.task}; log-likelihoods of continuations need a causal "
            "language model",
            fix="deploy profile computes perplexity of masked language models and accuracy of "
            "classifiers",
        )
    names = [entry.name for entry in bundle.manifest.inputs]
    unknown = [name for name in names if name not in _MADE]
    if IDS not in names or unknown:
        raise ConfigError(
            f"{bundle.path} takes the inputs {', '.join(names)}; text gives {', '.join(_MADE)}",
            fix="export the model without others",
        )
    if bundle.tokenizer is None:
        raise ConfigError(
            f"{bundle.path} holds no tokenizer", fix="build it again with --tokenizer FOLDER"
        )
    least, _, most = shapes_from_plain(bundle.manifest.shapes)[IDS]
    positions = model.max_positions or most[1]
    # its scales depend on the whole batch, and so would each answer on its neighbours
    dynamic = bundle.manifest.calibration.quantizer == DYNAMIC_QUANTIZER
    rows = 1 if dynamic else batch_size or most[0]
    return Limits(
        (least[0], max(least[0], min(rows, most[0]))), (least[1], min(most[1], positions))
    )


class ContinuationScorer:
    """Runs contexts with their continuations through a model, the longest first.

    Pairs that give the model the same tokens, such as one context with continuations of one
    token, share a row. Rows are padded on the right, where a causal model does not look.

    Args:
        run: Inference: arrays (B, T) to logits (B, T, vocabulary), the first output.
        inputs: Of the model.
        limits: Of a batch.
    """

    def __init__(self, run: Run, inputs: Sequence[GraphInput], limits: Limits) -> None:
        self._run = run
        self._inputs = inputs
        self._limits = limits
        self.truncated = 0
        """Pairs whose context was cut on the left, so far."""

    @property
    def most_tokens(self) -> int:
        """Tokens that the model sees at most."""
        return self._limits.tokens[1]

    def score(
        self, pairs: Sequence[Pair], advance: Callable[[int], None]
    ) -> list[tuple[float, bool]]:
        """Return of each pair the log-likelihood of its continuation, and whether it is greedy.

        The last token of a continuation is predicted and not fed, so that one token more than
        the model takes fits.

        Args:
            pairs: Neither side empty.
            advance: Called with the number of pairs done.

        Returns:
            Natural logarithms, and whether each token was the likeliest.

        Raises:
            DataError: If a continuation is empty or longer than the model takes.
            RunError: If logits are not finite or are no logits of tokens.
        """
        owners: dict[Tokens, list[int]] = {}
        for index, pair in enumerate(pairs):
            owners.setdefault(self._seen(pair), []).append(index)
        found: dict[int, tuple[float, bool]] = {}
        for rows in _chunks(sorted(owners, key=lambda t: (-len(t), t)), self._limits.rows[1]):
            logits = self._logits(rows)
            for row, tokens in enumerate(rows):
                for index in owners[tokens]:
                    wanted = np.asarray(pairs[index][1])
                    kept = logits[row, len(tokens) - len(wanted) : len(tokens)]
                    found[index] = _likelihood(kept, wanted)
                advance(len(owners[tokens]))
        return [found[index] for index in range(len(pairs))]

    def _seen(self, pair: Pair) -> Tokens:
        context, continuation = pair
        most = self.most_tokens
        if not 0 < len(continuation) <= most or not context:
            raise DataError(
                f"a continuation has {len(continuation)} tokens after {len(context)} of context; "
                f"expected 1 to {most} after 1 or more",
                fix="build the bundle with a larger --seq-len, or leave the task out",
            )
        whole = (*context, *continuation)
        self.truncated += len(whole) > most + 1
        return whole[-(most + 1) :][:-1]

    def _logits(self, rows: Sequence[Tokens]) -> np.ndarray:
        """Return logits (B, T, vocabulary) of rows of tokens, (B, T) at least as the model asks."""
        count = max(len(rows), self._limits.rows[0])
        width = max(len(rows[0]), self._limits.tokens[0])
        padded = [*rows, *[rows[0]] * (count - len(rows))]
        outputs = self._run(_arrays(padded, width, self._inputs))
        logits = next(iter(outputs.values()))
        if logits.ndim != 3 or logits.shape[:2] != (count, width):
            raise RunError(
                f"the model's first output has shape {logits.shape}, not {(count, width)} and the "
                "vocabulary",
                fix="export it with its language-modelling head",
            )
        return logits


def _chunks(rows: Sequence[Tokens], size: int) -> Iterator[Sequence[Tokens]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _arrays(
    rows: Sequence[Tokens], width: int, inputs: Sequence[GraphInput]
) -> Mapping[str, np.ndarray]:
    lengths = np.array([[len(row)] for row in rows])
    places = np.broadcast_to(np.arange(width), (len(rows), width))
    ids = np.zeros((len(rows), width), np.int64)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    made = {
        IDS: ids,
        "attention_mask": places < lengths,
        "position_ids": np.minimum(places, lengths - 1),
        "token_type_ids": np.zeros_like(ids),
    }
    return {i.name: np.ascontiguousarray(made[i.name], i.dtype) for i in inputs}


def _likelihood(logits: np.ndarray, wanted: np.ndarray) -> tuple[float, bool]:
    """Return the log-likelihood of tokens (T,) under logits (T, vocabulary), and if greedy."""
    exact = logits.astype(np.float64)
    top = exact.max(axis=-1)
    norms = np.log(np.exp(exact - top[:, None]).sum(axis=-1)) + top
    total = float((exact[np.arange(len(wanted)), wanted] - norms).sum())
    if not np.isfinite(total):
        raise RunError(
            "log-likelihoods are not finite: the outputs overflow", fix="check the float model"
        )
    return total, bool((exact.argmax(axis=-1) == wanted).all())
