"""Class labels: from examples to arrays of ids, and the one check that they are a model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from attention.text import Example
from trueint8.errors import DataError

_FIX = "use the model's label names or their ids"


def labels_from_examples(
    examples: Sequence[Example], label_ids: Mapping[str, int] | None
) -> np.ndarray | None:
    """Return one label per example, names as ids where ``label_ids`` says so, or None.

    None where an example has no label. Without ``label_ids`` names stay as they
    are: calibration has no use for labels, and :func:`check_labels` refuses them.

    Raises:
        DataError: If a name is none of the model's.
    """
    labels = [e.label for e in examples]
    if any(label is None for label in labels):
        return None
    if label_ids:
        for label in labels:
            if isinstance(label, str) and label not in label_ids:
                raise DataError(
                    f"label {label!r} is none of the model's: {', '.join(label_ids)}", fix=_FIX
                )
        labels = [label_ids[v] if isinstance(v, str) else v for v in labels]
    if any(isinstance(v, str) for v in labels):
        return np.asarray(labels, dtype=object)
    return np.asarray(labels)


def check_labels(
    name: str,
    parts: Sequence[np.ndarray],
    *,
    classes: int | None = None,
    label_ids: Mapping[str, int] | None = None,
) -> None:
    """Refuse labels that are not one class id per sequence.

    Args:
        name: The data's, for messages.
        parts: One array per batch, (B,).
        classes: How many classes the model tells apart, where that is known.
        label_ids: Class names to ids, where they are known.

    Raises:
        DataError: If labels are no integers, not 1-D, or not 0 <= label < classes.
    """
    known = dict(label_ids or {})
    for part in parts:
        if part.ndim != 1:
            raise DataError(
                f"{name}: a batch's labels have shape {part.shape}; expected one per sequence",
                fix="save 'labels' as a 1-D array of class ids",
            )
        for label in part.tolist():
            if isinstance(label, bool) or not isinstance(label, int):
                raise DataError(
                    f"{name}: label {label!r} is no class id, and the model names no classes"
                    if isinstance(label, str) and not known
                    else f"{name}: label {label!r} is no class id",
                    fix="give labels as ids: integers from 0",
                )
            _check_id(name, label, classes, known)


def _check_id(name: str, label: int, classes: int | None, known: Mapping[str, int]) -> None:
    if known and label not in known.values():
        names = ", ".join(f"{word} ({number})" for word, number in known.items())
        raise DataError(f"{name}: label {label} is none of the model's: {names}", fix=_FIX)
    if label < 0 or (classes is not None and label >= classes):
        range_ = f"expected 0 <= label < {classes}" if classes else "expected 0 or more"
        raise DataError(
            f"{name}: label {label} is out of range; {range_}",
            fix="give labels as the model's class ids",
        )
