"""Evaluation data with targets, and the scores of a graph on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from calib.data import Samples, check_lengths, check_tokens, load_samples, load_tokenizer
from calib.inputs import GraphInput, Request
from calib.labels import check_labels
from deploy.manifest import ModelEntry
from export.matmuls import vocabulary_size
from export.onnx_file import load_clean
from export.source import Task
from trueint8.errors import ConfigError, DataError

IGNORED = -100
MASK_PROBABILITY = 0.15

Target = Literal["tokens", "labels", "cosine"]
Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Batches with targets: token ids or labels, or none where outputs are compared by cosine."""

    target: Target
    batches: list[dict[str, np.ndarray]]
    targets: list[np.ndarray]
    fingerprints: tuple[str, ...] = ()
    """As of :class:`calib.data.Samples`; not saved."""

    @property
    def count(self) -> int:
        """Number of sequences."""
        return sum(len(next(iter(b.values()))) for b in self.batches)

    def save(self, path: Path) -> None:
        """Write to an ``.npz`` that :func:`load_evaluation` reads."""
        arrays: dict[str, Any] = {"target": np.array(self.target)}
        for index, batch in enumerate(self.batches):
            arrays |= {f"{index}/{name}": values for name, values in batch.items()}
            if self.targets:
                arrays[f"targets/{index}"] = self.targets[index]
        np.savez(path, allow_pickle=False, **arrays)


def load_evaluation(path: Path) -> EvaluationSet:
    """Read what :meth:`EvaluationSet.save` wrote."""
    with np.load(path) as archive:
        target: Target = str(archive["target"])  # type: ignore[assignment]
        batches: list[dict[str, np.ndarray]] = []
        targets = []
        for key in archive.files:
            head, _, name = key.partition("/")
            if head == "targets":
                targets.append(archive[key])
            elif head.isdigit():
                while len(batches) <= int(head):
                    batches.append({})
                batches[int(head)][name] = archive[key]
    return EvaluationSet(target, batches, targets)


def read_evaluation(
    path: Path,
    amount: Request,
    model: ModelEntry,
    inputs: Sequence[GraphInput],
    *,
    graph: Path,
    tokenizer: Path | None,
) -> EvaluationSet:
    """Read data as batches with targets.

    Args:
        path: The data.
        amount: How much of it, in what shape and order.
        model: Decides the targets.
        inputs: Of the graph.
        graph: The float graph.
        tokenizer: Its folder, if the model has one.

    Raises:
        DataError: If the data does not fit the model.
        ConfigError: As :func:`evaluation_set`.
    """
    samples = load_samples(
        path, amount, inputs, task=model.task, tokenizer=tokenizer, label_ids=model.label_ids
    )
    loaded = load_clean(graph)
    check_labels(
        samples.name,
        samples.labels or [],
        classes=_known_classes(loaded),
        label_ids=model.label_ids,
    )
    check_lengths(samples, model.max_positions)
    check_tokens(samples, vocabulary_size(loaded, "input_ids"))
    found = evaluation_set(samples, model.task, tokenizer, amount.seed)
    return replace(found, fingerprints=samples.fingerprints)


def _known_classes(graph: ir.Model) -> int | None:
    """Return the last axis of the first output, where it is (B, classes) and of fixed size."""
    shape = graph.graph.outputs[0].shape
    size = shape[1] if shape is not None and len(shape) == 2 else None
    return size if isinstance(size, int) else None


def evaluation_set(
    samples: Samples, task: Task, tokenizer: Path | None, seed: int
) -> EvaluationSet:
    """Choose targets for a task.

    ``fill-mask`` hides 15 % of the tokens (80 % as the mask token, 10 % as a
    random one, 10 % unchanged; Devlin et al. 2019) with the seed; ``text-generation``
    predicts each next token; ``text-classification`` uses the data's labels;
    without labels, and for ``feature-extraction``, outputs are compared with the
    float model's by cosine. Labels must have passed :func:`check_labels`.

    Raises:
        ConfigError: If tokens are to be masked and there is no tokenizer.
        DataError: If the tokenizer has no mask token where one is needed, there
            are no token ids, or only some of the data has labels.
    """
    batches = samples.batches
    if task in ("fill-mask", "text-generation") and "input_ids" not in batches[0]:
        raise DataError(
            f"the model has no input 'input_ids', so it cannot be evaluated for {task}",
            fix="build it again with --task feature-extraction",
        )
    if task == "fill-mask":
        if tokenizer is None:
            raise ConfigError(
                "masked-LM accuracy needs a tokenizer, and the bundle holds none",
                fix="build it again with --tokenizer FOLDER, or with --task feature-extraction",
            )
        loaded = load_tokenizer(tokenizer)
        masked = [_mask_tokens(b, loaded, seed + i) for i, b in enumerate(batches)]
        return EvaluationSet("tokens", [b for b, _ in masked], [t for _, t in masked])
    if task == "text-generation":
        return EvaluationSet("tokens", batches, [_next_tokens(b) for b in batches])
    if samples.partly_labelled:
        raise DataError(
            f"{samples.name}: some of the data has labels and some has none",
            fix="give every example a label, or none",
        )
    if samples.labels is not None:
        return EvaluationSet("labels", batches, samples.labels)
    return EvaluationSet("cosine", batches, [])


def _mask_tokens(
    batch: Mapping[str, np.ndarray], tokenizer: Any, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    if tokenizer.mask_token_id is None:
        raise DataError(
            "the tokenizer has no mask token, so masked-LM accuracy cannot be computed",
            fix="pass --task feature-extraction when building",
        )
    draw = np.random.default_rng(seed)
    ids = batch["input_ids"].copy()
    seen = batch.get("attention_mask", np.ones_like(ids)) == 1
    candidates = ~np.isin(ids, tokenizer.all_special_ids) & seen
    chosen = candidates & (draw.random(ids.shape) < MASK_PROBABILITY)
    targets = np.where(chosen, ids, IGNORED)
    how = draw.random(ids.shape)
    ids[chosen & (how < 0.8)] = tokenizer.mask_token_id
    swapped = chosen & (how >= 0.8) & (how < 0.9)
    ids[swapped] = draw.integers(0, len(tokenizer), ids.shape)[swapped]
    return {**batch, "input_ids": ids}, targets


def _next_tokens(batch: Mapping[str, np.ndarray]) -> np.ndarray:
    ids = batch["input_ids"]
    targets = np.full(ids.shape, IGNORED, dtype=np.int64)
    follows = batch.get("attention_mask", np.ones_like(ids))[:, 1:] == 1
    targets[:, :-1] = np.where(follows, ids[:, 1:], IGNORED)
    return targets


def position_scores(
    run: Run, data: EvaluationSet, expected: Sequence[np.ndarray] = ()
) -> Iterator[np.ndarray]:
    """Yield for each batch one score per position that counts, sequence after sequence.

    Args:
        run: Inference of the graph.
        data: Batches and targets.
        expected: What :func:`output_vectors` gave for the float graph, where outputs are
            compared by cosine.

    Yields:
        Losses of tokens, hits of labels, or cosines to ``expected``, (N,).
    """
    if data.target == "tokens":
        yield from _token_losses(run, data)
    elif data.target == "labels":
        yield from _hits(run, data)
    else:
        for batch, vectors in zip(data.batches, expected, strict=True):
            yield _cosine(_vectors(_first(run(batch)), batch), vectors)


def output_vectors(run: Run, data: EvaluationSet) -> list[np.ndarray]:
    """Return for each batch the output vectors of its unpadded positions, (N, C) float32."""
    return [_vectors(_first(run(batch)), batch) for batch in data.batches]


def _first(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return next(iter(outputs.values()))


def _hits(run: Run, data: EvaluationSet) -> Iterator[np.ndarray]:
    for batch, targets in zip(data.batches, data.targets, strict=True):
        logits = _first(run(batch))
        if logits.ndim != 2:
            raise DataError(
                f"the data has labels and the model's output has shape {logits.shape}, not one "
                "row of logits per sequence",
                fix="leave the labels out; outputs are then compared with the float model's",
            )
        check_labels("the evaluation data", [targets], classes=logits.shape[-1])
        yield logits.argmax(-1) == targets


def _token_losses(run: Run, data: EvaluationSet) -> Iterator[np.ndarray]:
    for batch, targets in zip(data.batches, data.targets, strict=True):
        counted = targets != IGNORED
        logits = _first(run(batch))[counted].astype(np.float64)
        top = logits.max(axis=-1, keepdims=True)
        norm = np.log(np.exp(logits - top).sum(axis=-1)) + top[:, 0]
        yield norm - logits[np.arange(len(logits)), targets[counted]]


def _vectors(output: np.ndarray, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the output vectors of unpadded positions, (N, C) float32."""
    mask = batch.get("attention_mask")
    if output.ndim == 3 and mask is not None and mask.shape == output.shape[:2]:
        output = output[mask.astype(bool)]
    return output.reshape(-1, output.shape[-1]).astype(np.float32)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    products: np.ndarray = (x * y).sum(axis=-1)
    cosines: np.ndarray = products / np.maximum(norms, np.finfo(np.float64).tiny)
    return cosines
