"""From a line to the model's inputs, and from its outputs to the line that answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.bulk.lines import Line
from deploy.serving.model import ServedModel
from deploy.serving.refusals import Refusal
from deploy.serving.tensors import array_from_json
from deploy.serving.text import TextModel

TEXT, ID, LINE, ERROR = "text", "id", "line", "error"

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Question:
    """One line as the model takes it.

    Attributes:
        head: What its answer begins with: ``line``, and ``id`` if the line has one.
        arrays: The model's inputs, (1, ...) each.
        text: Whether it is a text, so that scores or an embedding are wanted.
    """

    head: Mapping[str, Any]
    arrays: Arrays
    text: bool

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for questions that may share a batch."""
        return self.text, *((name, a.shape[1:]) for name, a in sorted(self.arrays.items()))

    @property
    def tokens(self) -> int:
        """How many tokens, or other elements along the second axis, it has."""
        return max((a.shape[1] for a in self.arrays.values() if a.ndim > 1), default=1)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What reads lines and writes answers.

    Attributes:
        model: That answers.
        texts: What makes its inputs from texts; None if it takes tensors only.
        plain: Whether a line is a text as it stands, and no JSON.
        truncate: Whether texts that are too long are cut.
    """

    model: ServedModel
    texts: TextModel | None
    plain: bool
    truncate: bool

    def question(self, line: Line) -> Question:
        """Read a line.

        Raises:
            Refusal: Saying what is wrong with it.
        """
        row = self._row(line)
        head = {LINE: line.number} | ({ID: row[ID]} if ID in row else {})
        text = TEXT in row
        arrays = self._encoded(row[TEXT]) if text else self._tensors(row)
        self.model.check(arrays)
        return Question(head, arrays, text)

    def _row(self, line: Line) -> dict[str, Any]:
        try:
            decoded = line.raw.decode("utf-8")
        except UnicodeDecodeError as err:
            raise _bad(f"it is not UTF-8 at byte {err.start}", "convert the file to UTF-8") from err
        if self.plain:
            return {TEXT: decoded}
        try:
            row = json.loads(decoded)
        except (ValueError, RecursionError) as err:
            raise _bad("it is not JSON", 'write an object such as {"text": "..."}') from err
        if not isinstance(row, dict):
            raise _bad("it is no JSON object", 'write an object such as {"text": "..."}')
        return row

    def _encoded(self, text: Any) -> Arrays:
        if self.texts is None:
            names = ", ".join(i.name for i in self.model.inputs)
            raise _bad("it is a text, and this bundle takes tensors only", f"give {names}")
        if not isinstance(text, str):
            raise _bad('it has no string under "text"', 'write an object such as {"text": "..."}')
        if text.encode("utf-8", "replace").decode("utf-8") != text:
            raise _bad("it holds half a character", "write whole characters")
        (arrays,) = self.texts.encode([text], truncate=self.truncate)
        return arrays

    def _tensors(self, row: Mapping[str, Any]) -> Arrays:
        missing = [i.name for i in self.model.inputs if i.name not in row]
        if missing:
            texts = '"text", or ' if self.texts is not None else ""
            raise _bad(f"it has no {', '.join(missing)}", f"give {texts}every input of the model")
        return {
            i.name: array_from_json(i.name, i.datatype, (1, *_shape(row[i.name])), [row[i.name]])
            for i in self.model.inputs
        }

    def answer(self, question: Question, outputs: Arrays) -> str:
        """Return the line that answers, from the outputs for it, (1, ...) each.

        Raises:
            Refusal: If they hold NaN or infinite values, which JSON cannot.
        """
        if question.text:
            assert self.texts is not None
            outputs = {self.texts.output.name: self.texts.answer(outputs)}
        for name, values in outputs.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise _bad(f"it gives NaN or infinite values in {name}", "check its values")
        plain = {name: _plain(values[0]) for name, values in outputs.items()}
        if question.text:
            plain = self._named(plain)
        return json.dumps({**question.head, **plain}, ensure_ascii=False)

    def _named(self, plain: dict[str, Any]) -> dict[str, Any]:
        """Give scores the names of their classes, and say which is highest where one must be."""
        assert self.texts is not None
        labels = self.texts.labels
        if not labels:
            return plain
        scores = dict(zip(labels, plain[self.texts.output.name], strict=True))
        exclusive = len(labels) > 1 and not self.texts.several
        return ({"label": max(scores, key=scores.__getitem__)} if exclusive else {}) | {
            self.texts.output.name: scores
        }


def error_line(line: Line, problem: str) -> str:
    """Return what stands in place of an answer where a line is bad."""
    return json.dumps({LINE: line.number, ERROR: problem}, ensure_ascii=False)


def _shape(value: Any) -> tuple[int, ...]:
    shape = []
    while isinstance(value, list) and value:
        shape.append(len(value))
        value = value[0]
    return tuple(shape)


def _plain(values: np.ndarray) -> Any:
    """Return nested lists; FP32 with no more digits than tell it from its neighbours."""
    if values.dtype == np.float32:
        return values.astype(str).astype(np.float64).tolist()
    return values.tolist()


def _bad(problem: str, fix: str) -> Refusal:
    return Refusal(400, problem, fix=fix)
