"""The adapter beside the harness's own model class for transformers, on the same checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'trueint8[lm-eval]'")

import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import processors

from deploy.bundle import Bundle
from deploy.engines import ENGINES
from deploy.harness.adapter import BundleModel
from deploy.harness.continuations import ContinuationScorer, limits_of
from deploy.sessions import Configuration
from export.checkpoint import quiet_transformers
from tests.deploy.checkpoints import POSITIONS, prose
from trueint8.errors import ConfigError, DataError
from trueint8.progress import Silence

Built = Callable[[str], Bundle]
Checkpoint = Callable[[str], Path]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PAIRS = [
    ("", "a text without context"),
    ("a context that ends in a space ", "and goes on"),
    *[(" ".join(prose(6, seed)), f" {prose(1, seed + 9)[0][:25]}") for seed in range(4)],
    *[(line[:20], line[20:60]) for line in prose(8, 3)],
]


def requests(pairs: list[tuple[str, ...]]) -> list[Instance]:
    return [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]


@contextmanager
def served(bundle: Bundle, tokenizer: Any, configuration: Configuration) -> Iterator[BundleModel]:
    engine = ENGINES.load("onnxruntime")
    path = bundle.engine_folder(engine.name)
    path = path if configuration.graph == "int8" else bundle.float_graph
    with engine.open(path, configuration, bundle.running(engine.name, 2)) as session:
        scorer = ContinuationScorer(session.run, session.inputs, limits_of(bundle, None))
        yield BundleModel(scorer, tokenizer, "score", Silence())


def unframed(folder: Path) -> Any:
    """Return the checkpoint's tokenizer without the end token that it puts after every text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


@pytest.mark.parametrize("family", ["opt", "llama", "gpt2"])
def test_log_likelihoods_are_those_of_the_harness(
    family: str, built: Built, checkpoint: Checkpoint
) -> None:
    tokenizer = unframed(checkpoint(family))
    with quiet_transformers():
        network = transformers.AutoModelForCausalLM.from_pretrained(checkpoint(family))
    theirs = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=3, max_length=POSITIONS)
    with served(built(family), tokenizer, Configuration("float", "fp32")) as ours:
        found = ours.loglikelihood(requests(list(PAIRS)))
        assert ours.max_length == POSITIONS
        assert ours.scorer.truncated == 4, "the long ones, cut as the harness cuts them"
        texts = requests([(" ".join(prose(n, n)),) for n in (1, 2, 7)])
        whole = ours.loglikelihood_rolling(texts)
    expected = theirs.loglikelihood(requests(list(PAIRS)), disable_tqdm=True)
    np.testing.assert_allclose([f[0] for f in found], [e[0] for e in expected], rtol=0, atol=1e-3)
    assert [f[1] for f in found] == [e[1] for e in expected]
    expected_whole = theirs.loglikelihood_rolling(texts, disable_tqdm=True)
    np.testing.assert_allclose(whole, expected_whole, rtol=1e-5)


def test_an_end_token_after_every_text_does_not_part_context_and_continuation(
    built: Built, checkpoint: Checkpoint
) -> None:
    framing = transformers.AutoTokenizer.from_pretrained(checkpoint("opt"))
    assert framing.encode("a")[-1] == framing.eos_token_id
    scores = []
    for tokenizer in (framing, unframed(checkpoint("opt"))):
        with served(built("opt"), tokenizer, Configuration("float", "fp32")) as model:
            scores.append(model.loglikelihood(requests(list(PAIRS))))
    assert scores[0] == scores[1]


def test_the_integer_engine_is_served_too(built: Built, checkpoint: Checkpoint) -> None:
    tokenizer = unframed(checkpoint("opt"))
    scores = []
    for configuration in (Configuration("float", "fp32"), Configuration("int8", "fp32")):
        with served(built("opt"), tokenizer, configuration) as model:
            scores.append([s for s, _ in model.loglikelihood(requests(list(PAIRS)))])
    assert scores[0] != scores[1]
    np.testing.assert_allclose(scores[1], scores[0], rtol=0.05)


def test_what_cannot_be_scored_is_refused(built: Built, checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="is for fill-mask; .* causal"):
        limits_of(built("bert"), None)
    tokenizer = unframed(checkpoint("opt"))
    with served(built("opt"), tokenizer, Configuration("float", "fp32")) as model:
        with pytest.raises(DataError, match="a continuation has 0 tokens"):
            model.loglikelihood(requests([("a context", "")]))
        with pytest.raises(DataError, match=f"expected 1 to {POSITIONS}"):
            model.loglikelihood(requests([("a", " ".join(prose(9, 0)))]))
        with pytest.raises(ConfigError, match="asks for generated text"):
            model.generate_until([])
