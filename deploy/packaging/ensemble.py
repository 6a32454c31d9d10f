"""Text in, scores or embeddings out: a tokenizer, a model and post-processing as one ensemble."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.packaging.backends.python import PROGRAM, copy_program
from deploy.packaging.choosing import Backend, Choice
from deploy.packaging.model_config import (
    add_step,
    new_config,
    set_parameters,
    write_config,
)
from deploy.packaging.models import Place, Written, record_of, write_program
from deploy.packaging.record import Role, write_record
from deploy.packaging.tensors import Signature
from deploy.serving.model import TensorInfo
from deploy.serving.text import SUFFIX

TOKENIZER_FILE = "tokenizer.json"
MADE = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""What the tokenizer's program can make."""

MASK = "attention_mask"
PAD_TO = 16
"""Lengths are rounded up to a multiple: requests of one length share batches."""


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Writes the three models around one that was written."""

    choice: Choice
    backend: Backend
    place: Place
    model: Written

    def write(self) -> list[str]:
        """Write them, the ensemble last, and return their names."""
        name, rows = self.model.name, self.model.most_rows
        inputs, source = self.model.signature.inputs, self.model.signature.outputs[0]
        mask = next((t for t in inputs if t.name == MASK), TensorInfo(MASK, "INT64", (-1, -1)))
        made = (*(t for t in inputs if t.name != MASK), mask)
        text = TensorInfo("text", "BYTES", (-1, 1))
        kind, answer = self._answer(source)
        tokens = Signature((text,), made)
        values = TensorInfo("values", source.datatype, source.shape)
        rest = Signature((values, mask), (answer,))
        names = names_around(name)
        self._write_tokenizer(names[0], tokens)
        self._write_postprocessing(names[1], rest, kind)
        config = new_config(names[2], "ensemble", [text], [answer], rows)
        add_step(config, names[0], {"text": "text"}, {t.name: t.name for t in made})
        add_step(config, name, {t.name: t.name for t in inputs}, {source.name: "values"})
        add_step(config, names[1], {"values": "values", MASK: MASK}, {answer.name: answer.name})
        folder = self.place.version_folder(names[2])
        self._finish(folder, config, "ensemble", Signature((text,), (answer,)))
        return names

    def _write_tokenizer(self, name: str, signature: Signature) -> None:
        folder, config = write_program(name, self.place, signature, self.model.most_rows)
        source = self.choice.bundle.tokenizer
        assert source is not None, "asked before"
        padded = PAD_TO if self.choice.mixes else 1
        told = {
            "max_tokens": self.choice.most(1),
            "pad_to_multiple": padded,
            "pad_id": _config(source).get("pad_token_id") or 0,
        }
        set_parameters(config, told)
        shutil.copyfile(source / TOKENIZER_FILE, folder / TOKENIZER_FILE)
        copy_program("tokenizer_model", folder / PROGRAM)
        self._finish(folder, config, "tokenizer", signature)

    def _write_postprocessing(self, name: str, signature: Signature, kind: str) -> None:
        folder, config = write_program(name, self.place, signature, self.model.most_rows)
        set_parameters(config, {"kind": kind})
        copy_program("postprocessing_model", folder / PROGRAM)
        self._finish(folder, config, "postprocessing", signature)

    def _finish(self, folder: Path, config: Any, role: Role, signature: Signature) -> None:
        write_config(config, folder.parent)
        record = record_of(self.choice, self.backend, role, self.model.name, signature)
        write_record(folder, record)

    def _answer(self, source: TensorInfo) -> tuple[str, TensorInfo]:
        """Return what post-processing does, and its output."""
        width = source.shape[-1]
        if self.choice.bundle.manifest.model.task == "feature-extraction":
            return "embedding", TensorInfo("embedding", "FP32", (-1, width))
        assert self.choice.bundle.tokenizer is not None, "asked before"
        problem = _config(self.choice.bundle.tokenizer).get("problem_type")
        several = "sigmoid" if problem == "multi_label_classification" else "softmax"
        return "value" if width == 1 else several, TensorInfo("scores", "FP32", (-1, width))


def names_around(model: str) -> list[str]:
    """Return the names of a model's tokenizer, post-processing and ensemble."""
    return [f"{model}-tokenizer", f"{model}-postprocessing", f"{model}{SUFFIX}"]


def takes_texts(choice: Choice, model: Written) -> bool:
    """Return whether a model can stand behind a tokenizer.

    It must be a classifier or an encoder of features whose inputs the tokenizer's program makes,
    of any batch and length, and have its tokenizer in one file.
    """
    folder = choice.bundle.tokenizer
    task = choice.bundle.manifest.model.task
    return (
        folder is not None
        and (folder / TOKENIZER_FILE).is_file()
        and task in ("text-classification", "feature-extraction")
        and all(t.name in MADE and t.shape == (-1, -1) for t in model.signature.inputs)
    )


def _config(tokenizer: Path) -> dict[str, Any]:
    file = tokenizer / "config.json"
    found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return found if isinstance(found, dict) else {}
