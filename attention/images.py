"""Images in: folders with one sub-folder per class, or scikit-learn's digits.

Pixels are float32 (C, H, W), resized, scaled to [0, 1] and normalized by mean and
standard deviation, as ``preprocessor_config.json`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trueint8.errors import DataError, MissingDependency

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
MOST_PIXELS = 1 << 26
"""Of one image: 256 MiB as RGB."""
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError, TypeError)
"""What Pillow raises of a damaged file; its own error of a file that is no image is an OSError."""
_HELD_OUT_ONE_IN = 5
_DIGIT_MAXIMUM = 16.0
_MEAN = _STD = 0.5
_FIX = "pass a folder that holds one sub-folder of images per class, or digits"


@dataclass(frozen=True, slots=True)
class ImageSets:
    """Images to train on and images held out, read when asked for.

    Attributes:
        classes: Class names; a label is an index into them.
        train_pixels: Returns training image i, (C, H, W).
        train_labels: One per training image.
        held_out_pixels: Returns held-out image i.
        held_out_labels: One per held-out image.
        preprocessing: Content of ``preprocessor_config.json``.
    """

    classes: Sequence[str]
    train_pixels: Callable[[int], np.ndarray]
    train_labels: Sequence[int]
    held_out_pixels: Callable[[int], np.ndarray]
    held_out_labels: Sequence[int]
    preprocessing: dict[str, Any]


def image_sets(name: str, shape: tuple[int, int, int]) -> ImageSets:
    """Open ``digits`` or a folder of class folders; every fifth image is held out.

    Args:
        name: ``digits`` or a folder.
        shape: (C, H, W) of what the model takes.

    Raises:
        DataError: If there are no images.
        MissingDependency: If Pillow or scikit-learn is not installed.
    """
    preprocessing = preprocessing_for(shape)
    if name == "digits":
        images, labels = digits()
        read: Callable[[int], np.ndarray] = lambda i: normalized(images[i], preprocessing)  # noqa: E731
        classes = [str(c) for c in range(10)]
    else:
        files, labels, classes = class_folders(Path(name).expanduser())
        read = lambda i: read_image(files[i], shape, preprocessing)  # noqa: E731
    held = np.flatnonzero(_held_out(labels))
    train = np.flatnonzero(~_held_out(labels))
    return ImageSets(
        classes=classes,
        train_pixels=lambda i: read(int(train[i])),
        train_labels=[int(v) for v in labels[train]],
        held_out_pixels=lambda i: read(int(held[i])),
        held_out_labels=[int(v) for v in labels[held]],
        preprocessing=preprocessing,
    )


def preprocessing_for(shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the ``preprocessor_config.json`` of models trained here."""
    channels, height, width = shape
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [_MEAN] * channels,
        "image_std": [_STD] * channels,
    }


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's 1797 digits, (N, 1, 8, 8) float32 in [0, 1], and their classes."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as err:
        raise MissingDependency(
            "scikit-learn is not installed; the digits come with it",
            fix="pip install 'trueint8[train]'",
        ) from err
    images, labels = load_digits(return_X_y=True)
    return (images.reshape(-1, 1, 8, 8) / _DIGIT_MAXIMUM).astype(np.float32), labels


def class_folders(folder: Path) -> tuple[list[Path], np.ndarray, list[str]]:
    """Return image files, their labels and the class names, in name order.

    Raises:
        DataError: If there is no folder, or no image in sub-folders.
    """
    if not folder.is_dir():
        raise DataError(f"no folder of images at {folder}", fix=_FIX)
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        files += found
        labels += [label] * len(found)
    if not files:
        raise DataError(f"{folder} holds no images in class folders", fix=_FIX)
    return files, np.asarray(labels), classes


def read_image(
    path: Path, shape: tuple[int, int, int], preprocessing: dict[str, Any]
) -> np.ndarray:
    """Return one image as (C, H, W) float32, preprocessed.

    Raises:
        DataError: If the file is no image, or has too many pixels.
        MissingDependency: If Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as err:
        raise MissingDependency("Pillow is not installed", fix="pip install pillow") from err
    channels, height, width = shape
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:  # known before any of them is unpacked
                raise ValueError(f"{image.width} x {image.height} pixels are too many")
            sized = image.convert("L" if channels == 1 else "RGB").resize(
                (width, height), Image.Resampling.BILINEAR
            )
            pixels = np.asarray(sized, dtype=np.float32)
    except (*_UNREADABLE, Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        raise DataError(
            f"{path} is no image that can be read: {err}", fix="remove, shrink or repair it"
        ) from err
    planes = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return normalized(planes / 255.0, preprocessing)


def normalized(pixels: np.ndarray, preprocessing: dict[str, Any]) -> np.ndarray:
    """Return (x − mean)/std per channel, (C, H, W), where the preprocessing asks for it."""
    if not preprocessing.get("do_normalize", True):
        return pixels.astype(np.float32)
    mean = np.asarray(preprocessing["image_mean"], np.float32)[:, None, None]
    std = np.asarray(preprocessing["image_std"], np.float32)[:, None, None]
    return ((pixels - mean) / std).astype(np.float32)


def _held_out(labels: np.ndarray) -> np.ndarray:
    """Return whether each image is held out: every fifth of its class."""
    within = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        chosen = labels == label
        within[chosen] = np.arange(chosen.sum())
    held: np.ndarray = within % _HELD_OUT_ONE_IN == _HELD_OUT_ONE_IN - 1
    return held
