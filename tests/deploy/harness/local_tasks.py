"""Local tasks in the form of HellaSwag, from the standard library's own text."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np

from attention.stdlib_text import stdlib_documents

HELLASWAG = Path(lm_eval.__file__).parent / "tasks" / "hellaswag" / "hellaswag.yaml"
CHOICES = 4


def docstrings(count: int, ending: int) -> list[tuple[str, str]]:
    """Return the first ten words of docstrings of held-out files, and ``ending`` after them."""
    found = []
    for tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                words = (ast.get_docstring(node) or "").split()
                if len(words) >= 20:
                    found.append((" ".join(words[:10]), " ".join(words[10 : 10 + ending])))
    return [piece for piece in found if len(piece[1]) <= 13 * ending][:count]


def _trees() -> Iterator[ast.Module]:
    for text in stdlib_documents("held-out", max_bytes=400_000):
        try:
            yield ast.parse(text)
        except SyntaxError:  # the last document is cut to fit
            continue


def write_choices(pieces: Sequence[tuple[str, str]], path: Path) -> Path:
    """Write items whose wrong endings are those of other items, with the fields of HellaSwag."""
    draw = np.random.default_rng(1)
    wrong = []
    for index in range(len(pieces)):
        others = draw.choice(len(pieces) - 1, CHOICES - 1, replace=False)
        wrong.append([pieces[i + (i >= index)][1] for i in others])
    return _write_items(pieces, wrong, path)


def write_scrambled(pieces: Sequence[tuple[str, str]], path: Path) -> Path:
    """Write items whose wrong endings are the right one with its words in other orders."""
    draw = np.random.default_rng(1)
    wrong = [
        [" ".join(draw.permutation(ending.split())) for _ in range(CHOICES - 1)]
        for _, ending in pieces
    ]
    return _write_items(pieces, wrong, path)


def _write_items(pieces: Sequence[tuple[str, str]], wrong: Sequence[list[str]], path: Path) -> Path:
    draw = np.random.default_rng(2)
    lines = []
    for (context, ending), endings in zip(pieces, wrong, strict=True):
        label = int(draw.integers(CHOICES))
        choices = [*endings[:label], ending, *endings[label:]]
        item = {"activity_label": "Text", "ctx_a": context, "ctx_b": "", "endings": choices}
        lines.append(json.dumps({**item, "label": str(label)}))
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def write_task(path: Path, name: str, data: Path, **fields: Any) -> Path:
    """Write a task's YAML file over local data; JSON is YAML."""
    whole = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(data)}},
        "validation_split": "validation",
        **fields,
    }
    path.write_text(json.dumps(whole), "utf-8")
    return path


def like_hellaswag(path: Path, data: Path) -> Path:
    """Write a task that is HellaSwag, its code included, on local data."""
    return write_task(path, path.stem, data, include=str(HELLASWAG), training_split=None)


def plain_choices(path: Path, data: Path) -> Path:
    """Write a task of multiple choice that takes the text as it is."""
    return write_task(
        path,
        path.stem,
        data,
        output_type="multiple_choice",
        doc_to_text="{{ctx_a}}",
        doc_to_choice="endings",
        doc_to_target="{{label | int}}",
        target_delimiter="",
        metric_list=[
            {"metric": m, "aggregation": "mean", "higher_is_better": True}
            for m in ("acc", "acc_norm")
        ],
    )


def whole_texts(path: Path, data: Path) -> Path:
    """Write a task of rolling log-likelihoods."""
    return write_task(
        path,
        path.stem,
        data,
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{ctx_a}}",
        metric_list=[{"metric": m} for m in ("word_perplexity", "bits_per_byte")],
    )
