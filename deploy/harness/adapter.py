"""A bundle's session as a model of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from deploy.harness.continuations import ContinuationScorer
from trueint8.errors import ConfigError
from trueint8.progress import Progress


class BundleModel(TemplateLM):
    """Text in, log-likelihoods out.

    Splits text into tokens as the harness's own model class for transformers does, with one
    difference: an end token that the tokenizer puts after every text is left out, or it would
    stand between a context and its continuation.

    Args:
        scorer: Of the session.
        tokenizer: Of transformers.
        title: Of the progress.
        progress: Where it is shown.
    """

    def __init__(
        self, scorer: ContinuationScorer, tokenizer: Any, title: str, progress: Progress
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.scorer = scorer
        self._title = title
        self._progress = progress
        self._prefix = _prefix_token(tokenizer)
        self._ends = _tokens_after(tokenizer)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text; the one before it where there is none."""
        ends = self.tokenizer.eos_token_id
        return self._prefix if ends is None else int(ends)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        return self._prefix

    @property
    def max_length(self) -> int:
        """Tokens that the model sees at most."""
        return self.scorer.most_tokens

    @property
    def tokenizer_name(self) -> str:
        """Where the tokenizer comes from."""
        return str(self.tokenizer.name_or_path)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Return token ids; the text's own prefix is not put before it again."""
        del kwargs
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode(self._prefix))
        ids = list(
            self.tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False)
        )
        return ids[: len(ids) - self._ends] if add_special_tokens and self._ends else ids

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Return log-likelihood and greediness of each continuation after its context."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        del kwargs
        with self._progress.step(self._title, total=len(requests)) as advance:
            return self.scorer.score([(c, t) for _, c, t in requests], advance)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """Return the log-likelihood of each whole text, in windows of the model's length."""
        del disable_tqdm
        windows = [list(self._windows(request.args[0])) for request in requests]
        flat = [(None, *window) for own in windows for window in own]
        scores = iter(self._loglikelihood_tokens(flat))
        return [sum(next(scores)[0] for _ in own) for own in windows]

    def _windows(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
        for window in get_rolling_token_windows(
            self.tok_encode(text), self._prefix, self.max_length, context_len=1
        ):
            yield make_disjoint_window(window)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Refuse: the graphs of bundles keep no keys and values from token to token.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "the task asks for generated text, and a bundle's graph scores text only",
            fix="choose tasks of multiple choice or of log-likelihoods",
        )


def _prefix_token(tokenizer: Any) -> int:
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id)
    found = next((token for token in known if token is not None), None)
    if found is None:
        raise ConfigError(
            "the tokenizer has no token that begins or ends a text",
            fix="set bos_token in its tokenizer_config.json and build the bundle again",
        )
    return int(found)


def _tokens_after(tokenizer: Any) -> int:
    """Return how many tokens the tokenizer puts after every text."""
    bare = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a")
    before = next(i for i in range(len(whole)) if list(whole[i : i + len(bare)]) == list(bare))
    return len(whole) - before - len(bare)
