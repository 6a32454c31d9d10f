"""Bodies of requests: drawn for a model's inputs, or the lines of a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from calib.inputs import GraphInput
from deploy.bulk.lines import check_input, read_lines
from deploy.drawn_inputs import draw_shaped
from deploy.serving.protocol import HEADER_LENGTH
from deploy.serving.tensors import DATATYPES, array_from_json, bytes_of
from trueint8.errors import ConfigError, DataError

DRAWN, MOST = 32, 256
"""Different bodies of one test, drawn and of a file; they are sent in turn."""

DRAWN_IDS = 100
"""Token ids are drawn below this: every vocabulary has so many, and the cost is the same."""

_WORDS = ("the", "a", "of", "to", "in", "is", "it", "on", "as", "at")
_DTYPES = {datatype: np.dtype(name) for name, datatype in DATATYPES.items()}


@dataclass(frozen=True, slots=True)
class Payload:
    """One request, ready to be sent."""

    body: bytes
    headers: Mapping[str, str]
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Asked:
    """What requests are made of.

    Attributes:
        data: Lines as of ``deploy run``; None to draw.
        rows: Per drawn request.
        tokens: Per drawn row.
        seed: Of the draw.
    """

    data: Path | None
    rows: int
    tokens: int
    seed: int


def payloads_for(inputs: Sequence[Mapping[str, Any]], asked: Asked) -> list[Payload]:
    """Return the bodies for a model.

    Args:
        inputs: Of the model's metadata: ``name``, ``datatype`` and ``shape`` each.
        asked: What they are made of.

    Raises:
        DataError: If a line of the file does not fit the model.
        ConfigError: If nothing can be drawn for an input.
    """
    if asked.data is not None:
        return [_payload(arrays) for arrays in _read(asked.data, inputs)]
    return [_payload(_drawn(inputs, asked, asked.seed + n)) for n in range(DRAWN)]


def _payload(arrays: Mapping[str, np.ndarray]) -> Payload:
    entries, tails = [], []
    for name, array in arrays.items():
        tails.append(bytes_of(array))
        entry = {
            "name": name,
            "datatype": DATATYPES[array.dtype.name],
            "shape": list(array.shape),
            "parameters": {"binary_data_size": len(tails[-1])},
        }
        entries.append(entry)
    request = {"inputs": entries, "parameters": {"binary_data_output": True}}
    raw = json.dumps(request).encode()
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(raw))}
    return Payload(b"".join([raw, *tails]), headers, arrays)


def _drawn(inputs: Sequence[Mapping[str, Any]], asked: Asked, seed: int) -> dict[str, np.ndarray]:
    shapes = {i["name"]: _shape(i["shape"], asked) for i in inputs}
    texts = [i["name"] for i in inputs if i["datatype"] == "BYTES"]
    tensors = [i for i in inputs if i["datatype"] != "BYTES"]
    unknown = [i["name"] for i in tensors if i["datatype"] not in _DTYPES]
    if unknown:
        raise ConfigError(f"nothing can be drawn for input {unknown[0]!r}", fix="pass --data FILE")
    graph = [GraphInput(i["name"], _DTYPES[i["datatype"]], ()) for i in tensors]
    found = draw_shaped(graph, shapes, dict.fromkeys(shapes, DRAWN_IDS), seed)
    draw = np.random.default_rng(seed)
    for name in texts:
        array = np.empty(shapes[name], object)
        for index in np.ndindex(array.shape):
            array[index] = " ".join(draw.choice(_WORDS, max(asked.tokens // 2, 1))).encode()
        found[name] = array
    return {i["name"]: found[i["name"]] for i in inputs}


def _shape(given: Sequence[int], asked: Asked) -> tuple[int, ...]:
    usual = (asked.rows, *[asked.tokens] * (len(given) - 1))
    return tuple(u if g == -1 else g for g, u in zip(given, usual, strict=True))


def _read(path: Path, inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, np.ndarray]]:
    check_input(path)
    found = []
    for line in islice(read_lines(path, 0, 0), MOST):
        try:
            text = line.raw.decode("utf-8")
            row = {"text": text} if path.suffix == ".txt" else json.loads(text)
            arrays = {i["name"]: _array(i, row[i["name"]]) for i in inputs}
        except (ValueError, KeyError, TypeError, DataError) as err:
            names = ", ".join(i["name"] for i in inputs)
            raise DataError(
                f"{path} line {line.number} does not fit the model's inputs, {names}: {err!r}",
                fix="pass --model NAME-text for texts, or lines that hold every input",
            ) from err
        found.append(arrays)
    if not found:
        raise DataError(f"{path} holds no lines", fix="pass another --data FILE")
    return found


def _array(given: Mapping[str, Any], value: Any) -> np.ndarray:
    """Return one row of an input."""
    if given["datatype"] == "BYTES":
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is no text")
        array = np.empty((1,) * len(given["shape"]), object)
        array[:] = value.encode()
        return array
    shape = np.shape(value)
    return array_from_json(given["name"], given["datatype"], (1, *shape), [value])
