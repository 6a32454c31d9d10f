"""Arrays in ``.npz`` files to batches named as the model's inputs."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np

from calib.inputs import GraphInput, Request, is_static, static_axes
from trueint8.artifacts import check_memory
from trueint8.errors import DataError

_UNREADABLE = (
    ValueError, TypeError, OSError, EOFError, LookupError, SyntaxError, RuntimeError,
    MemoryError, RecursionError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What NumPy and zipfile raise of a file that is no .npz, or a damaged one; RuntimeError of one
that is encrypted."""


def array_batches(
    path: Path, request: Request, inputs: Sequence[GraphInput]
) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray]]:
    """Return batches of the inputs, and labels of those batches that have some.

    Raises:
        DataError: If a file cannot be read, or does not hold what the model takes.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.npz"))
    batch_size, _ = static_axes(inputs, request)
    batches: list[dict[str, np.ndarray]] = []
    labels: list[np.ndarray] = []
    left = request.samples
    for file in files:
        arrays = _read_arrays(file, inputs)
        rows = len(arrays[inputs[0].name])
        stop = min(rows, left)
        if is_static(inputs):
            stop -= stop % batch_size
        left -= stop
        for start in range(0, stop, batch_size):
            piece = slice(start, min(start + batch_size, stop))
            batches.append({i.name: arrays[i.name][piece].astype(i.dtype) for i in inputs})
            if "labels" in arrays:
                labels.append(arrays["labels"][piece])
    if not batches:
        raise DataError(f"{path} holds no whole batch of samples", fix="pass more rows")
    return batches, labels


def _read_arrays(file: Path, inputs: Sequence[GraphInput]) -> dict[str, np.ndarray]:
    names = [i.name for i in inputs]
    arrays = _arrays(file)
    missing = [n for n in names if n not in arrays]
    if missing:
        raise DataError(
            f"{file} has no array {missing[0]!r}; it holds: {', '.join(sorted(arrays)) or '-'}",
            fix=f"name the arrays as the model's inputs: {', '.join(names)}",
        )
    for item in inputs:
        _check_array(file, item, arrays[item.name])
    _check_rows(file, arrays, [*names, *(["labels"] if "labels" in arrays else [])])
    return arrays


def array_inputs(path: Path, names: Sequence[str]) -> list[GraphInput]:
    """Return the inputs that arrays in an ``.npz``, or a folder of such, are made for.

    The first axis is the batch; integers with two axes are token ids of any length.

    Args:
        path: The data.
        names: What the model takes; arrays of other names are no inputs.

    Raises:
        DataError: If the data holds no array of these names.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.npz"))
    if not files or files[0].suffix != ".npz":
        raise DataError(
            f"{path} holds no .npz of arrays named as the inputs: {', '.join(names)}",
            fix="write one with numpy.savez(file, name=array, ...)",
        )
    arrays = _arrays(files[0])
    found = []
    for name in names:
        if name in arrays:
            array = arrays[name]
            whole = array.dtype.kind in "iu"
            kind = np.dtype(np.int64 if whole else np.float32)
            axes = (None, None) if whole and array.ndim == 2 else (None, *array.shape[1:])
            found.append(GraphInput(name, kind, axes))
    if not found:
        raise DataError(
            f"{files[0]} has none of the arrays that the model takes: {', '.join(names)}; it "
            f"holds: {', '.join(sorted(arrays)) or '-'}",
            fix="name the arrays as the parameters of the module's forward",
        )
    return found


def _arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            check_memory(file, sum(item.file_size for item in archive.infolist()))
            for item in archive.infolist():
                _check_header(archive, item)
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {k: arrays[k] for k in arrays.files}
    except _UNREADABLE as err:
        raise DataError(
            f"{file} is not a readable .npz of plain arrays: {err}",
            fix="write it with numpy.savez(file, input_ids=..., attention_mask=...)",
        ) from err


def _check_header(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> None:
    """Refuse an array whose shape asks for more than its file holds, once unpacked.

    NumPy takes memory for the shape before it reads.

    Raises:
        ValueError: Of such an array, or one that is not of plain values.
    """
    with archive.open(item) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0
        read = np.lib.format.read_array_header_2_0 if version > (1, 0) else read
        shape, _, dtype = read(stream)
        start = stream.tell()
    if dtype.hasobject or prod(shape) * dtype.itemsize != item.file_size - start:
        raise ValueError(f"{item.filename} of shape {shape} does not hold {dtype} of that shape")


def _check_rows(file: Path, arrays: dict[str, np.ndarray], names: Sequence[str]) -> None:
    rows = {n: len(arrays[n]) if arrays[n].ndim else 1 for n in names}
    if len(set(rows.values())) != 1:
        raise DataError(
            f"{file}: the arrays differ in their first axis: "
            + ", ".join(f"{name} has {count}" for name, count in rows.items()),
            fix="save one row per sample in every array",
        )


def _check_array(file: Path, item: GraphInput, array: np.ndarray) -> None:
    fix = "save arrays of the model's shapes and dtypes"
    kinds = "iub" if item.dtype.kind in "iub" else "fiu"
    if array.dtype.kind not in kinds:
        raise DataError(
            f"{file}: {item.name!r} has dtype {array.dtype}, the model takes {item.dtype}", fix=fix
        )
    fits = array.ndim == len(item.shape) and all(
        axis == 0 or (have > 0 if want is None else have == want)
        for axis, (have, want) in enumerate(zip(array.shape, item.shape, strict=True))
    )
    if not fits:
        shape = tuple("dynamic" if d is None else d for d in item.shape)
        raise DataError(
            f"{file}: {item.name!r} has shape {array.shape}, the model takes {shape}", fix=fix
        )
