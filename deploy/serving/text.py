"""Text in, scores or embeddings out: a second model, called after the first one with ``-text``.

Tokenizes with the ``tokenizers`` library alone, so that a server needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.inputs import GraphInput
from deploy.bundle import Bundle
from deploy.serving.model import ServedModel, TensorInfo
from deploy.serving.refusals import Refusal
from trueint8.errors import DataError, MissingDependency

SUFFIX = "-text"
INPUT = TensorInfo("text", "BYTES", (-1,))

_MADE = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


@dataclass(frozen=True, slots=True)
class TextModel:
    """A tokenizer before a model, and what turns its outputs into one row per text.

    Attributes:
        whole: The tokenizer.
        cut: The same, cutting at the model's longest sequence.
        inputs: Of the model.
        most_tokens: Longest sequence.
        output: Its only output: ``scores`` (B, classes), or ``embedding`` (B, C).
        source: The model's output that this is computed from.
        several: Whether classes exclude one another (softmax) or not (sigmoid).
        labels: Names of the classes, in order; empty for embeddings.
    """

    whole: Any
    cut: Any
    inputs: tuple[GraphInput, ...]
    most_tokens: int
    output: TensorInfo
    source: str
    several: bool
    labels: tuple[str, ...]

    def texts(self, arrays: Mapping[str, np.ndarray], most: int) -> list[str]:
        """Return the texts of a request: ``text``, BYTES of shape (B) or (B, 1).

        Raises:
            Refusal: 400, if it is not that, or no UTF-8.
        """
        array = arrays.get(INPUT.name)
        if array is None or len(arrays) > 1 or array.dtype.kind != "O":
            raise Refusal(
                400, "the request is not one input 'text' of BYTES", fix="send texts only"
            )
        if array.shape not in ((array.size,), (array.size, 1)) or not 1 <= array.size <= most:
            raise Refusal(
                400,
                f"input 'text' has shape {list(array.shape)}",
                fix=f"send [B] or [B, 1], B from 1 to {most}",
            )
        try:
            return [value.decode("utf-8") for value in array.reshape(-1)]
        except UnicodeDecodeError as err:
            raise Refusal(400, "input 'text' holds no valid UTF-8", fix="encode as UTF-8") from err

    def encode(self, texts: Sequence[str], *, truncate: bool) -> list[dict[str, np.ndarray]]:
        """Return the model's inputs for each text, (1, T) each.

        Raises:
            Refusal: 400, if a text has no tokens, or too many and may not be cut.
        """
        found = []
        for text in texts:
            encoding = (self.cut if truncate else self.whole).encode(text)
            count = len(encoding.ids)
            if not 1 <= count <= self.most_tokens:
                raise Refusal(
                    400,
                    f"a text has {count} tokens; the limit is {self.most_tokens}",
                    fix="send a shorter text, or the parameter truncate: true",
                )
            found.append(self._arrays(encoding))
        return found

    def _arrays(self, encoding: Any) -> dict[str, np.ndarray]:
        count = len(encoding.ids)
        made = {
            "input_ids": encoding.ids,
            "attention_mask": [1] * count,
            "token_type_ids": encoding.type_ids,
            "position_ids": range(count),
        }
        return {i.name: np.array([made[i.name]], i.dtype) for i in self.inputs}

    def answer(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return one row for one text from the model's outputs for it.

        Embeddings are means over all tokens, as no text is padded, and of length 1.
        """
        values = outputs[self.source].astype(np.float32)
        if self.output.name == "embedding":
            mean = values.mean(axis=1) if values.ndim == 3 else values
            length = np.linalg.norm(mean, axis=-1, keepdims=True)
            return np.asarray(mean / np.maximum(length, np.finfo(np.float32).tiny), np.float32)
        if len(self.labels) == 1:
            return values
        if self.several:
            return np.asarray(np.exp(-np.logaddexp(0, -values)), np.float32)
        raised = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=-1, keepdims=True), np.float32)


def text_model(bundle: Bundle, model: ServedModel) -> TextModel | None:
    """Return the text model of a bundle, or None if it cannot have one.

    It takes a classifier or an encoder of features with dynamic sequence lengths, and a tokenizer
    in one file, ``tokenizer.json``.

    Raises:
        MissingDependency: If the library ``tokenizers`` is not installed.
        DataError: If the tokenizer cannot be loaded.
    """
    inputs = tuple(model.session.inputs)
    task = bundle.manifest.model.task
    file = bundle.tokenizer / "tokenizer.json" if bundle.tokenizer is not None else None
    fits = all(i.name in _MADE and i.shape == (None, None) for i in inputs)
    known = task in ("text-classification", "feature-extraction")
    if file is None or not file.is_file() or not fits or not known:
        return None
    try:
        from tokenizers import Tokenizer
    except ImportError as err:
        raise MissingDependency(
            "serving text needs the package tokenizers, which is not installed",
            fix="pip install 'trueint8[serve]', or pass --no-text",
        ) from err
    try:
        whole, cut = Tokenizer.from_file(str(file)), Tokenizer.from_file(str(file))
    except Exception as err:  # the library raises bare Exception
        raise DataError(
            f"the tokenizer {file} cannot be loaded: {str(err).splitlines()[0]}",
            fix="build the bundle again with --tokenizer FOLDER, or pass --no-text",
        ) from err
    for tokenizer in (whole, cut):
        tokenizer.no_padding()
        tokenizer.no_truncation()
    cut.enable_truncation(model.most_tokens)
    source = model.outputs[0]
    width = source.shape[-1]
    scores = task == "text-classification"
    return TextModel(
        whole=whole,
        cut=cut,
        inputs=inputs,
        most_tokens=model.most_tokens,
        output=TensorInfo("scores" if scores else "embedding", "FP32", (-1, width)),
        source=source.name,
        several=_config(bundle).get("problem_type") == "multi_label_classification",
        labels=_labels(bundle, width) if scores else (),
    )


def _config(bundle: Bundle) -> dict[str, Any]:
    file = bundle.tokenizer / "config.json" if bundle.tokenizer is not None else None
    found = json.loads(file.read_text("utf-8")) if file is not None and file.is_file() else {}
    return found if isinstance(found, dict) else {}


def _labels(bundle: Bundle, width: int) -> tuple[str, ...]:
    names = {number: name for name, number in (bundle.manifest.model.label_ids or {}).items()}
    return tuple(names.get(n, f"LABEL_{n}") for n in range(width))
