"""Tensors of the protocol: JSON lists and raw bytes to arrays and back."""

from __future__ import annotations

from itertools import chain
from math import prod
from typing import Any

import numpy as np

from deploy.serving.refusals import ProtocolError

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",
}
"""The protocol's name of each dtype; ``object`` arrays hold :class:`bytes`."""

_DTYPES = {v: k for k, v in DATATYPES.items()}

_WRITTEN: dict[str, set[type]] = {
    "BOOL": {bool},
    "BYTES": {str},
    **dict.fromkeys(("FP16", "FP32", "FP64"), {int, float}),
}
"""Types of JSON values, where not whole numbers."""

_LENGTH_BYTES = 4
"""Before each element of BYTES in binary."""


def array_from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> np.ndarray:
    """Return a JSON list, flat or nested as the shape, as an array.

    Raises:
        ProtocolError: If it holds another number or kind of values, or one that does not fit.
    """
    values = _flat(name, shape, data)
    wanted = _WRITTEN.get(datatype, {int})
    if not all(type(v) in wanted for v in values):
        raise ProtocolError(
            f"data of input {name!r} holds values that are no {datatype}",
            fix=f"send {' or '.join(sorted(t.__name__ for t in wanted))} values",
        )
    if datatype == "BYTES":
        return _objects(_utf8(name, values), shape)
    try:
        wide = np.array(values, np.float64 if datatype.startswith("FP") else _DTYPES[datatype])
        with np.errstate(over="ignore"):
            array = wide.astype(_DTYPES[datatype])
    except OverflowError as err:
        raise _out_of_range(name, datatype) from err
    return _finite(name, datatype, array).reshape(shape)


def array_from_bytes(name: str, datatype: str, shape: tuple[int, ...], raw: bytes) -> np.ndarray:
    """Return little-endian bytes as an array; BYTES elements follow their length in 4 bytes.

    Raises:
        ProtocolError: If there are more or fewer bytes than the shape asks for, or floats
            are NaN or infinite.
    """
    if datatype == "BYTES":
        return _objects(_elements(name, prod(shape), raw), shape)
    dtype = np.dtype(_DTYPES[datatype])
    if len(raw) != prod(shape) * dtype.itemsize:
        raise ProtocolError(
            f"input {name!r} has {len(raw)} bytes; {datatype} of shape {list(shape)} has "
            f"{prod(shape) * dtype.itemsize}",
            fix="make binary_data_size, shape and datatype agree",
        )
    if datatype == "BOOL" and raw.strip(b"\x00\x01"):
        raise _out_of_range(name, datatype)
    return _finite(name, datatype, np.frombuffer(raw, dtype.newbyteorder("<")).reshape(shape))


def bytes_of(values: np.ndarray) -> bytes:
    """Return an array as the protocol's bytes."""
    if values.dtype.kind != "O":
        return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    return b"".join(len(v).to_bytes(_LENGTH_BYTES, "little") + v for v in values.reshape(-1))


def json_of(values: np.ndarray) -> list[Any]:
    """Return an array as a flat list, as Triton answers."""
    if values.dtype.kind != "O":
        return list(values.reshape(-1).tolist())
    return [v.decode("utf-8", "replace") for v in values.reshape(-1)]


def _flat(name: str, shape: tuple[int, ...], data: Any) -> list[Any]:
    flat = data
    for depth, length in enumerate(shape[1:] if isinstance(data, list) else ()):
        if not flat or not all(isinstance(part, list) for part in flat):
            break
        fits = len(flat) == prod(shape[: depth + 1]) and all(len(p) == length for p in flat)
        if not fits:
            raise _wrong_count(name, shape)
        flat = list(chain.from_iterable(flat))
    if not isinstance(flat, list) or len(flat) != prod(shape):
        raise _wrong_count(name, shape)
    return flat


def _wrong_count(name: str, shape: tuple[int, ...]) -> ProtocolError:
    return ProtocolError(
        f"data of input {name!r} is not a list of shape {list(shape)}",
        fix=f"send {prod(shape)} values, flat or nested as the shape",
    )


def _out_of_range(name: str, datatype: str) -> ProtocolError:
    return ProtocolError(
        f"data of input {name!r} holds values that do not fit {datatype}",
        fix="send finite values within the datatype's range",
    )


def _finite(name: str, datatype: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _out_of_range(name, datatype)
    return array


def _utf8(name: str, values: list[str]) -> list[bytes]:
    try:
        return [v.encode() for v in values]
    except UnicodeEncodeError as err:
        raise ProtocolError(
            f"data of input {name!r} holds text that is no Unicode", fix="send whole characters"
        ) from err


def _objects(values: list[bytes], shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def _elements(name: str, count: int, raw: bytes) -> list[bytes]:
    found: list[bytes] = []
    start = 0
    while start + _LENGTH_BYTES <= len(raw) and len(found) < count:
        length = int.from_bytes(raw[start : start + _LENGTH_BYTES], "little")
        start += _LENGTH_BYTES + length
        found.append(raw[start - length : start])
    if len(found) != count or start != len(raw):
        raise ProtocolError(
            f"the bytes of input {name!r} are not {count} elements, each after its length",
            fix="write each length as 4 bytes, little-endian",
        )
    return found
