"""Text or arrays to batches named as the model's inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from attention.text import SUFFIXES, Example, read_examples
from calib.array_data import array_batches
from calib.fingerprints import row_pieces, sketch
from calib.image_data import holds_images, read_images
from calib.inputs import GraphInput, Request, is_static, static_axes
from calib.labels import labels_from_examples
from export.source import Task
from trueint8.artifacts import sha256_tree
from trueint8.errors import ConfigError, DataError, MissingDependency

_PACKED_TASKS = ("fill-mask", "text-generation")
_CHARACTERS_PER_TOKEN = 6

DATA_FIX = (
    "pass a .txt or .jsonl file, an .npz of arrays named as the inputs, or a folder of such, "
    "or of images"
)


@dataclass(frozen=True, slots=True)
class Samples:
    """Batches of arrays, whole batches first; ``labels`` one array per batch where all have one."""

    name: str
    sha256: str
    batches: list[dict[str, np.ndarray]]
    labels: list[np.ndarray] | None
    partly_labelled: bool = False
    """Whether some of the data has labels and some has none."""
    fingerprints: tuple[str, ...] = ()
    """Sketch of the lines of all text in the data, or of the rows that were read; empty where
    it is not known."""

    @property
    def count(self) -> int:
        """Number of sequences."""
        return sum(len(next(iter(b.values()))) for b in self.batches)


def load_samples(
    path: Path,
    request: Request,
    inputs: Sequence[GraphInput],
    *,
    task: Task,
    tokenizer: Path | None,
    label_ids: dict[str, int] | None = None,
) -> Samples:
    """Read data for calibration, evaluation or golden outputs.

    Language-model tasks pack running text into blocks of the full length;
    other tasks take one sequence per line, padded to the longest of its batch.

    Args:
        path: ``.txt``, ``.jsonl``, ``.npz``, a folder of one of these kinds, a folder of
            images, or one of images in class folders.
        request: Amount, shape and seed.
        inputs: The model's inputs.
        task: Decides packing.
        tokenizer: Folder with tokenizer files, needed for text, or with
            ``preprocessor_config.json`` for images.
        label_ids: Class names to ids, where labels are names.

    Raises:
        DataError: If data is missing, empty, of another type or shape.
        ConfigError: If text comes without a tokenizer.
    """
    if holds_images(path):
        batches, labels = _image_batches(path, request, inputs, tokenizer, label_ids)
        rows = sketch(row_pieces(batches))
        return Samples(path.name, sha256_tree(path), batches, labels or None, fingerprints=rows)
    kind = _kind(path)
    if kind == "arrays":
        batches, labels = array_batches(path, request, inputs)
        partly = 0 < len(labels) < len(batches)
        fingerprints = sketch(row_pieces(batches))
    else:
        examples = read_examples(path)
        partly = len({e.label is None for e in examples}) == 2
        fingerprints = sketch(e.text.strip().encode() for e in examples)
        batches, found = batches_from_text(
            examples, request, inputs, task=task, tokenizer=tokenizer, label_ids=label_ids
        )
        labels = found or []
    whole = labels if len(labels) == len(batches) else None
    return Samples(path.name, sha256_tree(path), batches, whole, partly, fingerprints)


def _image_batches(
    path: Path,
    request: Request,
    inputs: Sequence[GraphInput],
    processor: Path | None,
    label_ids: dict[str, int] | None,
) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray]]:
    item = inputs[0]
    fixed = [axis for axis in item.shape[1:] if axis is not None]
    if len(inputs) != 1 or len(fixed) != 3 or item.dtype.kind != "f":
        raise DataError(
            f"{path} holds images, and the model does not take images of a fixed size",
            fix=DATA_FIX,
        )
    batch_size, _ = static_axes(inputs, request)
    pixels, labels = read_images(
        path,
        (fixed[0], fixed[1], fixed[2]),
        samples=request.samples,
        seed=request.seed,
        processor=processor,
        label_ids=label_ids,
    )
    stop = len(pixels) - len(pixels) % batch_size if is_static(inputs) else len(pixels)
    parts = [slice(start, min(start + batch_size, stop)) for start in range(0, stop, batch_size)]
    if not parts:
        raise DataError(f"{path} holds no whole batch of images", fix="pass more images")
    batches = [{item.name: pixels[part].astype(item.dtype)} for part in parts]
    return batches, [] if labels is None else [labels[part] for part in parts]


def batches_from_text(
    examples: Sequence[Example],
    request: Request,
    inputs: Sequence[GraphInput],
    *,
    task: Task,
    tokenizer: Path | None,
    label_ids: dict[str, int] | None = None,
) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray] | None]:
    """Tokenize, batch and pad; see :func:`load_samples`."""
    if tokenizer is None:
        raise ConfigError(
            "text data needs a tokenizer, and the model comes with none",
            fix="pass --tokenizer FOLDER, or the data as an .npz of arrays",
        )
    encoder = load_tokenizer(tokenizer)
    batch_size, length = static_axes(inputs, request)
    if length is not None:
        request = replace(request, sequence=min(request.sequence, length))
    order = np.random.default_rng(request.seed).permutation
    if task in _PACKED_TASKS:
        sequences = _packed(encoder, examples, request, order)
        labels = None
    else:
        picked = [examples[i] for i in order(len(examples))[: request.samples]]
        sequences = [
            encoder(e.text, truncation=True, max_length=request.sequence)["input_ids"]
            for e in picked
        ]
        labels = labels_from_examples(picked, label_ids)
    batches, kept = [], []
    for start in range(0, len(sequences), batch_size):
        part = sequences[start : start + batch_size]
        if len(part) < batch_size and is_static(inputs):
            break
        batches.append(_padded(part, inputs, length, encoder.pad_token_id or 0))
        if labels is not None:
            kept.append(labels[start : start + batch_size])
    if not batches:
        raise DataError(
            f"the data gives {len(sequences)} sequences and the graph's batch is fixed at "
            f"{batch_size}",
            fix="pass more data",
        )
    return batches, kept if labels is not None else None


def check_lengths(samples: Samples, max_positions: int | None) -> None:
    """Refuse token sequences longer than the model has positions.

    Raises:
        DataError: With both lengths.
    """
    longest = max((b["input_ids"].shape[1] for b in samples.batches if "input_ids" in b), default=0)
    if max_positions is not None and longest > max_positions:
        raise DataError(
            f"{samples.name} holds sequences of {longest} tokens; the model has {max_positions} "
            "positions",
            fix="cut the sequences, or pass a smaller --seq-len",
        )


def check_tokens(samples: Samples, vocabulary: int | None) -> None:
    """Refuse token ids that the model has no embedding for, and sequences that are all hidden.

    Raises:
        DataError: With the id and the size of the vocabulary, or the sequence.
    """
    for index, batch in enumerate(samples.batches):
        mask = batch.get("attention_mask")
        if mask is not None and mask.ndim == 2 and not mask.any(axis=1).all():
            row = int(mask.any(axis=1).argmin())
            raise DataError(
                f"{samples.name}: 'attention_mask' hides every token of row {row} of batch {index}",
                fix="leave that row out, or set its mask to 1 where there are tokens",
            )
        ids = batch.get("input_ids")
        if ids is None or vocabulary is None:
            continue
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= vocabulary:
            raise DataError(
                f"{samples.name}: 'input_ids' holds {low if low < 0 else high}; the model's "
                f"vocabulary has {vocabulary} tokens, 0 to {vocabulary - 1}",
                fix="tokenize the data with the model's own tokenizer",
            )


def _kind(path: Path) -> str:
    if not path.exists():
        raise DataError(f"no data at {path}", fix=DATA_FIX)
    if not path.is_file() and not path.is_dir():
        raise DataError(f"{path} is neither a file nor a folder", fix=DATA_FIX)
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    suffixes = {p.suffix for p in files}
    if suffixes and suffixes <= set(SUFFIXES):
        return "text"
    if suffixes == {".npz"}:
        return "arrays"
    if not suffixes:
        raise DataError(f"{path} holds no files", fix=DATA_FIX)
    odd = sorted(p.name for p in files if p.suffix not in (*SUFFIXES, ".npz"))
    if odd:
        raise DataError(f"{path}: {odd[0]} is of no kind that is read here", fix=DATA_FIX)
    raise DataError(f"{path} mixes text and arrays", fix="keep them in two folders")


def load_tokenizer(folder: Path) -> Any:
    """Load a tokenizer that pads and truncates on the right.

    Raises:
        MissingDependency: If transformers is not installed.
        DataError: If the folder holds no usable tokenizer.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as err:
        raise MissingDependency(
            "transformers is not installed; text data needs it",
            fix="pip install 'trueint8[export]', or pass the data as an .npz of arrays",
        ) from err
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise DataError(
            f"the tokenizer in {folder} cannot be loaded: {str(err).splitlines()[0]}",
            fix="pass --tokenizer FOLDER with tokenizer.json and tokenizer_config.json",
        ) from err
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    return tokenizer


def _packed(
    tokenizer: Any, examples: Sequence[Example], request: Request, order: Any
) -> list[list[int]]:
    """Cut running text into blocks of exactly the requested length, special tokens included.

    Chunks of consecutive lines are drawn in random order until there are
    enough blocks. Only if no chunk fills one are shorter blocks used.
    """
    chunks = list(_chunks(examples, request.sequence * _CHARACTERS_PER_TOKEN))
    full: list[list[int]] = []
    short: list[list[int]] = []
    for index in order(len(chunks)):
        windows = tokenizer(
            chunks[index],
            truncation=True,
            max_length=request.sequence,
            return_overflowing_tokens=True,
        )["input_ids"]
        for ids in windows:
            (full if len(ids) == request.sequence else short).append(ids)
        if len(full) >= request.samples:
            break
    return (full or short)[: request.samples]


def _chunks(examples: Sequence[Example], characters: int) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    for example in examples:
        lines.append(example.text)
        size += len(example.text) + 1
        if size >= characters:
            yield "\n".join(lines)
            lines, size = [], 0
    if lines:
        yield "\n".join(lines)


def _padded(
    sequences: Sequence[Sequence[int]],
    inputs: Sequence[GraphInput],
    length: int | None,
    pad_id: int,
) -> dict[str, np.ndarray]:
    width = length or max(len(s) for s in sequences)
    ids = np.full((len(sequences), width), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    known = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(ids),
        "position_ids": np.broadcast_to(np.arange(width), ids.shape).copy(),
    }
    unknown = [i.name for i in inputs if i.name not in known]
    if unknown:
        raise DataError(
            f"the model's input {unknown[0]!r} cannot be made from text",
            fix="pass the data as an .npz of arrays named as the inputs",
        )
    return {i.name: known[i.name].astype(i.dtype) for i in inputs}
