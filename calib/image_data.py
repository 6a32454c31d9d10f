"""Image folders to batches of a vision model's one float input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attention.images import SUFFIXES, class_folders, preprocessing_for, read_image
from trueint8.errors import DataError

PREPROCESSING = "preprocessor_config.json"


def holds_images(path: Path) -> bool:
    """Return whether ``path`` is a folder of images, or of class folders with images."""
    if not path.is_dir():
        return False
    return any(p.suffix.lower() in SUFFIXES for p in (*path.glob("*"), *path.glob("*/*")))


def read_images(
    path: Path,
    shape: tuple[int, int, int],
    *,
    samples: int,
    seed: int,
    processor: Path | None,
    label_ids: Mapping[str, int] | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read up to ``samples`` images in an order drawn with ``seed``.

    Args:
        path: A folder of images, or of one sub-folder per class.
        shape: (C, H, W) of the model's input.
        samples: At most this many.
        seed: Of the order.
        processor: Folder with ``preprocessor_config.json``; without one pixels are scaled to
            [0, 1] and normalized by 0.5 and 0.5.
        label_ids: The model's class names to ids.

    Returns:
        Pixels (N, C, H, W) float32, and labels (N,), or None for a flat folder.

    Raises:
        DataError: If an image cannot be read, or a class folder is none of the model's.
    """
    preprocessing = _preprocessing(processor, shape)
    flat = sorted(p for p in path.glob("*") if p.suffix.lower() in SUFFIXES)
    if flat:
        files, labels = flat, None
    else:
        files, indices, classes = class_folders(path)
        labels = _as_ids(classes, label_ids, path)[indices]
    order = np.random.default_rng(seed).permutation(len(files))[:samples]
    pixels = np.stack([read_image(files[i], shape, preprocessing) for i in order])
    return pixels, None if labels is None else labels[order]


def _preprocessing(processor: Path | None, shape: tuple[int, int, int]) -> dict[str, Any]:
    path = processor / PREPROCESSING if processor is not None else None
    if path is None or not path.is_file():
        return preprocessing_for(shape)
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as err:
        raise DataError(f"{path} is not JSON: {err}", fix="save it with the checkpoint") from err
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no table", fix="save it with the checkpoint")
    wanted = {"image_mean", "image_std"} if found.get("do_normalize", True) else set()
    if not all(_is_row(found.get(key), shape[0]) for key in wanted):
        raise DataError(
            f"{path} has no image_mean and image_std for {shape[0]} channels",
            fix="save the image processor that the model was trained with",
        )
    return found


def _is_row(values: Any, channels: int) -> bool:
    """Say whether there is one number for each channel."""
    numbers = isinstance(values, list) and all(type(v) in (int, float) for v in values)
    return numbers and len(values) == channels


def _as_ids(classes: list[str], label_ids: Mapping[str, int] | None, path: Path) -> np.ndarray:
    if not label_ids:
        return np.arange(len(classes))
    unknown = [name for name in classes if name not in label_ids]
    if unknown:
        raise DataError(
            f"{path / unknown[0]} is named after none of the model's classes: "
            f"{', '.join(list(label_ids)[:12])}",
            fix="name each folder after one of the model's labels",
        )
    return np.asarray([label_ids[name] for name in classes])
