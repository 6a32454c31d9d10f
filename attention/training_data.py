"""What a model is trained on: an endless source of items, and a few held out.

An item is a pure function of a random generator, so that item i of a run can be
drawn again after an interruption without replaying the i before it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attention.recipe import Recipe
from attention.text import SUFFIXES, Example, read_examples
from trueint8.errors import ConfigError, DataError, MissingDependency

Item = dict[str, np.ndarray]

_HELD_OUT_ITEMS = 256
_HELD_OUT_SHARE = 0.05
_HELD_OUT_SEED = 128
_TOKENIZER_BYTES = 2_000_000
_FIX = (
    "pass --data with a text file, a folder, stdlib, backcopy, digits, or hf:NAME for a data set "
    "of the Hugging Face hub"
)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Items to learn from.

    Attributes:
        draw: Returns one training item: the model's inputs and ``labels``, without a batch axis.
        held_out: Items that training never sees.
        model_fields: What the data decides of the model's configuration.
        processor: Tokenizer to save beside the model, if there is one.
        image_processor: Content of ``preprocessor_config.json``, if there is one.
        stream: Tokens of the training text, where it is one stream.
        facts: What is worth keeping with the results, such as the entropy.
    """

    draw: Callable[[np.random.Generator], Item]
    held_out: Sequence[Item]
    model_fields: dict[str, Any] = field(default_factory=dict)
    processor: Any = None
    image_processor: dict[str, Any] | None = None
    stream: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def open_data(recipe: Recipe, data: str | None, tokenizer: Any = None) -> TrainingData:
    """Read the training data and split off what is held out.

    Args:
        recipe: Its task decides what an item is.
        data: ``stdlib``, ``backcopy``, ``digits``, ``hf:NAME[:CONFIG]``, a file or folder; the
            recipe's own if None.
        tokenizer: A transformers tokenizer; one is trained on the text if None.

    Raises:
        ConfigError: If no data is named, or it does not suit the task.
        DataError: If it is not there or cannot be read.
        MissingDependency: If a package is needed that is not installed.
    """
    name = data or recipe.data
    if name is None:
        raise ConfigError("no training data was named", fix=_FIX)
    task = recipe.the_task()
    if name == "backcopy":
        if task != "text-generation":
            raise ConfigError(f"backcopy cannot train {task}", fix="use --arch opt or llama")
        return _backcopy()
    if task == "image-classification":
        return _images(name, recipe)
    if task == "text-classification":
        return _labelled(name, recipe, tokenizer)
    train, held_out = _texts(name)
    return _windows(recipe, train, held_out, tokenizer)


def _backcopy() -> TrainingData:
    from attention import backcopy

    pool = backcopy.sequences("train")

    def draw(rng: np.random.Generator) -> Item:
        ids = pool[rng.integers(len(pool))]
        return {"input_ids": ids, "labels": backcopy.labels(ids)}

    held_out = [
        {"input_ids": ids, "labels": backcopy.labels(ids)} for ids in backcopy.sequences("held-out")
    ]
    fields = {
        "vocab_size": backcopy.VOCABULARY,
        "bos_token_id": 0,
        "pad_token_id": None,
        "eos_token_id": None,
    }
    return TrainingData(draw, held_out, fields, facts={"entropy_nats": backcopy.entropy()})


def _texts(name: str) -> tuple[list[str], list[str]]:
    """Return documents to train on and documents held out."""
    if name == "stdlib":
        from attention.stdlib_text import stdlib_documents

        return list(stdlib_documents("train")), list(stdlib_documents("held-out"))
    texts = _hub_texts(name) if name.startswith("hf:") else _file_texts(Path(name).expanduser())
    count = max(1, round(_HELD_OUT_SHARE * len(texts)))
    if len(texts) < 2:
        raise DataError(f"{name} holds one line of text; nothing could be held out", fix=_FIX)
    return texts[:-count], texts[-count:]


def _file_texts(path: Path) -> list[str]:
    if not path.exists():
        raise DataError(f"no training data at {path}", fix=_FIX)
    if path.is_dir() and (path / "dataset_info.json").is_file():
        return _column(_datasets().load_from_disk(str(path)))
    return [example.text for example in read_examples(path)]


def _hub_texts(name: str) -> list[str]:
    _, *parts = name.split(":")
    try:
        return _column(_datasets().load_dataset(*parts, split="train"))
    except (OSError, ValueError) as err:
        raise DataError(
            f"the hub gave no data set for {name!r}: {str(err).splitlines()[0]}",
            fix="check the name and the network, or pass text files",
        ) from err


def _column(rows: Any) -> list[str]:
    if "text" not in rows.column_names:
        raise DataError(
            f"the data set has no column 'text' but {', '.join(rows.column_names)}",
            fix="rename the column that holds the text",
        )
    return [text for text in rows["text"] if text.strip()]


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as err:
        raise MissingDependency(
            "Hugging Face datasets is not installed", fix="pip install 'trueint8[train]'"
        ) from err
    return datasets


def _windows(
    recipe: Recipe, train: Sequence[str], held_out: Sequence[str], tokenizer: Any
) -> TrainingData:
    from attention.masked_lm import token_stream
    from attention.tokenizing import text_sample, train_tokenizer

    if tokenizer is None:
        tokenizer = train_tokenizer(
            text_sample(train, _TOKENIZER_BYTES), recipe.vocab_size, sequence=recipe.sequence
        )
    item = _masked_item if recipe.the_task() == "fill-mask" else _causal_item
    streams = [token_stream(tokenizer, t, at_least=recipe.sequence) for t in (train, held_out)]

    def draw(rng: np.random.Generator) -> Item:
        return item(rng, recipe, tokenizer, streams[0])

    rng = np.random.default_rng(_HELD_OUT_SEED)
    kept = [item(rng, recipe, tokenizer, streams[1]) for _ in range(_HELD_OUT_ITEMS)]
    fields = {
        "vocab_size": max(recipe.vocab_size, len(tokenizer)),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    facts = {"training_tokens": int(streams[0].size), "held_out_tokens": int(streams[1].size)}
    return TrainingData(draw, kept, fields, tokenizer, stream=streams[0], facts=facts)


def _masked_item(
    rng: np.random.Generator, recipe: Recipe, tokenizer: Any, stream: np.ndarray
) -> Item:
    from attention.masked_lm import draw_windows, mask_tokens

    ids = draw_windows(rng, tokenizer, stream, 1, recipe.sequence)
    inputs, places, wanted = mask_tokens(rng, tokenizer, ids, recipe.mask_probability)
    labels = np.full(recipe.sequence, -100, dtype=np.int64)
    labels[places.numpy()] = wanted.numpy()
    return {
        "input_ids": inputs.numpy()[0],
        "attention_mask": np.ones_like(labels),
        "labels": labels,
    }


def _causal_item(
    rng: np.random.Generator, recipe: Recipe, tokenizer: Any, stream: np.ndarray
) -> Item:
    start = rng.integers(0, stream.size - recipe.sequence + 2)
    ids = np.concatenate(
        [[tokenizer.cls_token_id], stream[start : start + recipe.sequence - 1]]
    ).astype(np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": ids}


def _labelled(name: str, recipe: Recipe, tokenizer: Any) -> TrainingData:
    from attention.tokenizing import text_sample, train_tokenizer

    examples = _labelled_examples(Path(name).expanduser())
    names = sorted({str(e.label) for e in examples})
    order = np.random.default_rng(_HELD_OUT_SEED).permutation(len(examples))
    count = max(1, round(_HELD_OUT_SHARE * len(examples)))
    if tokenizer is None:
        tokenizer = train_tokenizer(
            text_sample([e.text for e in examples], _TOKENIZER_BYTES),
            recipe.vocab_size,
            sequence=recipe.sequence,
        )

    def item(index: int) -> Item:
        example = examples[order[index]]
        encoded = tokenizer(
            example.text, truncation=True, max_length=recipe.sequence, padding="max_length"
        )
        arrays = {k: np.asarray(encoded[k]) for k in ("input_ids", "attention_mask")}
        return arrays | {"labels": np.asarray(names.index(str(example.label)))}

    def draw(rng: np.random.Generator) -> Item:
        return item(int(rng.integers(count, len(examples))))

    fields = {
        "vocab_size": max(recipe.vocab_size, len(tokenizer)),
        "pad_token_id": tokenizer.pad_token_id,
        **_label_fields(names),
    }
    return TrainingData(draw, [item(i) for i in range(count)], fields, tokenizer)


def _labelled_examples(path: Path) -> list[Example]:
    if not path.exists():
        raise DataError(f"no training data at {path}", fix=_FIX)
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        examples = [Example(r.get("text") or "", r.get("label")) for r in rows]
    else:
        examples = read_examples(path)
    if len(examples) < 2 or any(e.label is None or not e.text for e in examples):
        raise DataError(
            f"{path} does not give a text and a label in every row",
            fix=f"pass .csv with the columns text and label, or .jsonl ({', '.join(SUFFIXES)}) "
            'with {"text": ..., "label": ...}',
        )
    return examples


def _label_fields(names: Sequence[str]) -> dict[str, Any]:
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
    }


def _images(name: str, recipe: Recipe) -> TrainingData:
    from attention.images import image_sets

    size = int(recipe.model.get("image_size", 224))
    shape = (int(recipe.model.get("num_channels", 3)), size, size)
    sets = image_sets(name, shape)

    def draw(rng: np.random.Generator) -> Item:
        index = int(rng.integers(len(sets.train_labels)))
        return {
            "pixel_values": sets.train_pixels(index),
            "labels": np.asarray(sets.train_labels[index]),
        }

    held_out = [
        {"pixel_values": sets.held_out_pixels(i), "labels": np.asarray(label)}
        for i, label in enumerate(sets.held_out_labels)
    ]
    fields = _label_fields(sets.classes)
    return TrainingData(draw, held_out, fields, image_processor=sets.preprocessing)
