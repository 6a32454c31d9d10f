"""Tiny random checkpoints of every family, with a byte-level BPE tokenizer trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from export.checkpoint import quiet_transformers

POSITIONS = 48
LAYERS = 2
CLASS_NAMES = {"negative": 0, "positive": 1, "neutral": 2}
_VOCABULARY = 600
_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
_WORDS = (Path(__file__).parent / "words.txt").read_text("utf-8").split()

_TINY = {
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def prose(lines: int, seed: int) -> list[str]:
    """Return lines of words drawn with the seed."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(_WORDS, draw.integers(6, 18))) + "." for _ in range(lines)]


def train_tokenizer() -> Any:
    """Return a byte-level BPE of about 600 tokens that frames text with <s> and </s>."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(prose(400, 0), trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = ("pad", "bos", "eos", "unk", "mask")
    roles = {f"{n}_token": t for n, t in zip(names, _SPECIAL, strict=True)}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, **roles)


def random_model(family: str, vocabulary: int) -> Any:
    """Return a small model whose every weight, bias included, is random."""
    torch.manual_seed(7)
    with quiet_transformers():
        model = _MAKERS[family](vocabulary).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "bias" in name:
                weight.normal_(0.0, 0.1)
            elif weight.ndim == 1:
                weight.normal_(1.0, 0.1)
            else:
                weight.normal_(0.0, 0.15)
    return model


def write_checkpoint(family: str, tokenizer: Any, folder: Path) -> Path:
    """Save model and tokenizer as transformers do, and return the folder."""
    with quiet_transformers():
        random_model(family, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _bert(vocabulary: int, **more: Any) -> Any:
    return transformers.BertConfig(
        vocab_size=vocabulary, max_position_embeddings=POSITIONS, **_TINY, **more
    )


def _roberta(vocabulary: int) -> Any:
    config = transformers.RobertaConfig(
        vocab_size=vocabulary,
        max_position_embeddings=POSITIONS + 1,
        type_vocab_size=1,
        **_TINY,
    )
    return transformers.RobertaForMaskedLM(config)


def _opt(vocabulary: int) -> Any:
    config = transformers.OPTConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.OPTForCausalLM(config)


def _gpt2(vocabulary: int) -> Any:
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_embd=32,
        n_layer=LAYERS,
        n_head=4,
        n_positions=POSITIONS,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.GPT2LMHeadModel(config)


def _llama(vocabulary: int) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=False,
        **_TINY,
    )
    return transformers.LlamaForCausalLM(config)


_MAKERS = {
    "bert": lambda v: transformers.BertForMaskedLM(_bert(v)),
    "bert-classes": lambda v: transformers.BertForSequenceClassification(
        _bert(v, label2id=CLASS_NAMES, id2label={i: n for n, i in CLASS_NAMES.items()})
    ),
    "bert-bare": lambda v: transformers.BertModel(_bert(v)),
    "bert-one-layer": lambda v: transformers.BertModel(
        transformers.BertConfig(
            vocab_size=v, max_position_embeddings=POSITIONS, **{**_TINY, "num_hidden_layers": 1}
        )
    ),
    "roberta": _roberta,
    "opt": _opt,
    "gpt2": _gpt2,
    "llama": _llama,
}
FAMILIES = tuple(name for name in _MAKERS if name != "bert-one-layer")


def write_arrays(path: Path, *, rows: int, length: int, **replaced: np.ndarray) -> Path:
    """Write BERT's three inputs, (rows, length) int64, with ``replaced`` ones in their place."""
    draw = np.random.default_rng(5)
    ids = draw.integers(len(_SPECIAL), 400, (rows, length))
    known = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }
    np.savez(path, **(known | replaced))
    return path
