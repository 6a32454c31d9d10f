"""The quick trainer: tokenizer, schedule, and what a run leaves behind."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from attention import training
from attention.attaching import CONFIG_KEY, IMPLEMENTATION
from attention.encoder_recipe import rate_factor
from attention.masked_lm import SPECIAL_TOKENS, masked_lm_loss, token_stream, unigram_loss
from attention.tokenizing import train_tokenizer
from attention.training import EncoderRecipe, initial_encoder, train_encoder
from trueint8.errors import ConfigError, DataError, UnknownName
from trueint8.progress import Advance, Silence

TINY = EncoderRecipe(
    vocab_size=320,
    layers=2,
    width=32,
    heads=2,
    ffn=64,
    sequence=16,
    batch_size=8,
    learning_rate=3e-3,
    steps=3,
)


def documents(count: int = 30) -> list[str]:
    """Return text in which neighbours tell much about a word."""
    rng = np.random.default_rng(0)
    names = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    lines = ["def {0}(x):\n    return {0}_table[x]\n", "{0} = {0} + 1\n", "print({0}, {0})\n"]
    return ["".join(rng.choice(lines).format(rng.choice(names)) for _ in range(12))] * 2 + [
        "".join(rng.choice(lines).format(rng.choice(names)) for _ in range(12))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(documents(), 320, sequence=16)


class Recorder:
    """Keeps what a run reported."""

    def __init__(self) -> None:
        self.titles: list[tuple[str, int | None]] = []
        self.units = 0
        self.lines: list[str] = []

    @contextlib.contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Advance]:
        self.titles.append((title, total))
        yield self._advance

    def say(self, line: str) -> None:
        self.lines.append(line)

    def _advance(self, units: int) -> None:
        self.units += units


class Clock:
    """A clock that moves by ``tick`` seconds whenever it is read."""

    def __init__(self, tick: float) -> None:
        self.tick = tick
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now


def run(out: Path, tokenizer: Any, recipe: EncoderRecipe = TINY, **more: Any) -> Any:
    settings = {"variant": "vanilla", "parameters": {}, "progress": Silence(), **more}
    return train_encoder(recipe, documents(), out, tokenizer=tokenizer, **settings)


# --- tokenizer ---


def test_the_tokenizer_gives_back_any_text(tokenizer: Any) -> None:
    for text in ("def f(x):\n\treturn x", "naïve café 漢字 🙂", "\x00\x7f", " two  spaces "):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_special_tokens_come_first_and_frame_a_text(tokenizer: Any) -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4]
    ids = tokenizer("alpha")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    pair = tokenizer("alpha", "beta")["input_ids"]
    assert pair.count(tokenizer.sep_token_id) == 2


def test_batches_are_padded_on_the_right_and_cut_to_the_sequence(tokenizer: Any) -> None:
    batch = tokenizer(["alpha", "alpha " * 50], padding=True, truncation=True)
    assert list(batch) == ["input_ids", "attention_mask"]
    assert [len(row) for row in batch["input_ids"]] == [16, 16]
    assert batch["input_ids"][0][-1] == tokenizer.pad_token_id
    assert batch["attention_mask"][0][0] == 1
    assert batch["attention_mask"][0][-1] == 0


def test_the_same_text_gives_the_same_tokenizer() -> None:
    first, again = (train_tokenizer(documents(), 320) for _ in range(2))
    assert again.backend_tokenizer.to_str() == first.backend_tokenizer.to_str()


def test_a_tokenizer_needs_text_and_room_for_every_byte() -> None:
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        train_tokenizer([""], 320)
    with pytest.raises(ConfigError, match="vocab_size=260 is out of range; expected .* >= 261"):
        train_tokenizer(["text"], 260)


# --- recipe and schedule ---


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 260),
        ("vocab_size", 8193),
        ("layers", 0),
        ("heads", 0),
        ("ffn", 0),
        ("batch_size", 0),
        ("width", 33),
        ("width", 34),
        ("width", 322),
        ("sequence", 7),
        ("learning_rate", 0.0),
        ("warm_up", 1.0),
        ("decay", "step"),
        ("weight_decay", -0.1),
        ("mask_probability", 0.0),
        ("mask_probability", 1.0),
        ("steps", 0),
        ("seconds", 0.0),
    ],
)
def test_a_recipe_out_of_range_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(TINY, **{field: value})
    assert caught.value.problem.startswith(f"{field}={value} is out of range; expected ")


def test_a_recipe_needs_an_end() -> None:
    with pytest.raises(ConfigError, match="the recipe has no end"):
        EncoderRecipe()


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_the_rate_rises_to_its_peak_and_falls_to_zero(decay: str) -> None:
    rates = [rate_factor(share, 0.2, decay) for share in np.linspace(0.0, 1.0, 101)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[10] == pytest.approx(0.5)
    assert rates[20] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    assert rate_factor(1.3, 0.2, decay) == pytest.approx(0.0)
    assert rate_factor(0.0, 0.0, decay) == pytest.approx(1.0)


def recorded_shares(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    shares: list[float] = []

    def factor(share: float, warm_up: float, decay: str) -> float:
        shares.append(share)
        return rate_factor(share, warm_up, decay)

    monkeypatch.setattr(training, "rate_factor", factor)
    return shares


def test_steps_drive_the_schedule(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = recorded_shares(monkeypatch)
    run(tmp_path, tokenizer, replace(TINY, steps=4))
    assert shares == [0.0, 0.25, 0.5, 0.75]


def test_a_time_budget_drives_the_schedule_to_its_end(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "time", Clock(tick=0.1))
    shares = recorded_shares(monkeypatch)
    seen = Recorder()
    summary = run(tmp_path, tokenizer, replace(TINY, steps=None, seconds=30.0), progress=seen)
    assert shares[0] < 0.05
    assert 0.95 < shares[-1] < 1.0
    assert shares == sorted(shares)
    assert 30.0 <= summary.seconds < 31.0
    assert summary.steps == len(shares)
    assert seen.titles == [("training vanilla (s)", 30)]
    assert seen.units == 30


def test_of_steps_and_time_the_first_to_end_ends_the_run(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "time", Clock(tick=0.1))
    few = run(tmp_path, tokenizer, replace(TINY, steps=5, seconds=1000.0))
    assert few.steps == 5
    short = run(tmp_path, tokenizer, replace(TINY, steps=1000, seconds=10.0))
    assert 1 <= short.steps < 100


def test_time_that_is_over_before_the_first_step_is_refused(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "time", Clock(tick=5.0))
    with pytest.raises(ConfigError, match=r"seconds=2.0 were over before the first step"):
        run(tmp_path, tokenizer, replace(TINY, steps=None, seconds=2.0))
    assert not list(tmp_path.iterdir())


# --- runs ---


def test_training_beats_token_frequencies(tmp_path: Path, tokenizer: Any) -> None:
    recipe = replace(TINY, steps=300)
    summary = run(tmp_path, tokenizer, recipe)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path, attn_implementation=IMPLEMENTATION)
    unigram = unigram_loss(tokenizer, documents(), documents())
    trained = masked_lm_loss(model, tokenizer, documents(), windows=64)
    assert trained < 0.8 * unigram
    assert summary.last_loss < summary.first_loss
    assert summary.tokens == 300 * 8 * 16


def test_counting_alone_starts_no_worse_than_token_frequencies(tokenizer: Any) -> None:
    stream = token_stream(tokenizer, documents(), at_least=16)
    model = initial_encoder(TINY, tokenizer, stream, "vanilla", {})
    start = masked_lm_loss(model, tokenizer, documents(), windows=64)
    assert start < 1.1 * unigram_loss(tokenizer, documents(), documents())


def test_the_checkpoint_carries_variant_and_tokenizer(tmp_path: Path, tokenizer: Any) -> None:
    summary = run(tmp_path, tokenizer, variant="clipped", parameters={"gamma": -0.2})
    assert summary.variant == "clipped"
    assert summary.steps == 3
    assert (tmp_path / "model.safetensors").is_file()
    model = AutoModelForMaskedLM.from_pretrained(tmp_path, attn_implementation=IMPLEMENTATION)
    assert getattr(model.config, CONFIG_KEY) == {"name": "clipped", "gamma": -0.2}
    assert model.config.max_position_embeddings == 16
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "alpha = alpha + 1"
    assert dict(loaded(text)) == dict(tokenizer(text))
    assert loaded.model_max_length == 16
    assert loaded.padding_side == "right"
    batch = loaded([text, "eta"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch, output_attentions=True)
    assert logits.logits.shape == (2, batch["input_ids"].shape[1], 320)
    assert (logits.attentions[0][0] == 0.0).any()


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_seed_decides_the_weights_and_the_global_state_is_kept(
    tmp_path: Path, tokenizer: Any
) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, (1, 1, 2), strict=True):
        folder.mkdir()
        torch.manual_seed(99)
        before = torch.get_rng_state()
        run(folder, tokenizer, replace(TINY, seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(7)
    first, same, other = map(weights, folders)
    assert first == same
    assert first != other


def test_progress_counts_every_step_and_says_the_loss(
    tmp_path: Path, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = Recorder()
    run(tmp_path, tokenizer, replace(TINY, steps=16), progress=seen)
    assert capsys.readouterr() == ("", "")
    assert seen.titles == [("training vanilla (steps)", 16)]
    assert seen.units == 16
    assert len(seen.lines) == 8
    assert seen.lines[-1].startswith("step 16: masked-LM loss ")


def test_a_long_run_renews_its_checkpoint(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "time", Clock(tick=30.0))
    saved = itertools.count()
    save = training._Run.save

    def counted(self: Any) -> None:
        next(saved)
        save(self)

    monkeypatch.setattr(training._Run, "save", counted)
    run(tmp_path, tokenizer, replace(TINY, steps=8))
    assert next(saved) > 2


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, tokenizer: Any) -> None:
    recipe = replace(TINY, learning_rate=1e30, warm_up=0.0, steps=20)
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, tokenizer, recipe)
    assert "is not finite at step " in caught.value.problem
    assert caught.value.fix == "lower learning_rate=1e+30"
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_refused_before_training(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"the tokenizer has \d+ tokens, .* vocab_size=300"):
        run(tmp_path, tokenizer, replace(TINY, vocab_size=300))
    with pytest.raises(UnknownName, match="no variant is called 'clip'"):
        run(tmp_path, tokenizer, variant="clip")
    with pytest.raises(ConfigError, match="variant 'vanilla' has no parameter 'gamma'"):
        run(tmp_path, tokenizer, parameters={"gamma": -0.1})
    with pytest.raises(DataError, match="at least 16 are needed"):
        train_encoder(
            TINY,
            ["x"],
            tmp_path,
            variant="vanilla",
            parameters={},
            tokenizer=tokenizer,
            progress=Silence(),
        )
    assert not list(tmp_path.iterdir())
