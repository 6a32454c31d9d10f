"""A tokenizer trained on the text at hand."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from attention.masked_lm import SPECIAL_TOKENS
from trueint8.errors import ConfigError, DataError

SMALLEST_VOCAB = len(SPECIAL_TOKENS) + 256


def text_sample(texts: Sequence[str], most_bytes: int) -> list[str]:
    """Return the first texts, as many as fit into ``most_bytes`` and at least one."""
    chosen, left = [], most_bytes
    for text in texts:
        if left <= 0:
            break
        chosen.append(text)
        left -= len(text)
    return chosen


def train_tokenizer(
    texts: Sequence[str], vocab_size: int, *, sequence: int = 128
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE, which can encode any text without an unknown token.

    Args:
        texts: Documents; about 2 MB is enough for 4096 tokens.
        vocab_size: At most this many tokens, >= 261: the special ones, 256 bytes, merges.
        sequence: Longest input, in tokens, that the model behind it takes.

    Returns:
        A tokenizer that frames a text as [CLS] text [SEP] and pads on the right.

    Raises:
        ConfigError: If ``vocab_size`` is too small.
        DataError: If there is no text.

    References:
        Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019.
    """
    if vocab_size < SMALLEST_VOCAB:
        raise ConfigError(
            f"vocab_size={vocab_size} is out of range; expected vocab_size >= {SMALLEST_VOCAB}",
            fix="pass 4096, or at least that many",
        )
    if not any(texts):
        raise DataError("there is no text to train a tokenizer on", fix="give texts")
    core = Tokenizer(models.BPE(unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    framed = [(name, core.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=framed
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=sequence,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name[1:-1].lower()}_token": name for name in SPECIAL_TOKENS},
    )
