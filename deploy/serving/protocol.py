"""Open Inference Protocol v2: bytes to arrays and back, in JSON and in binary.

Source: the protocol of KServe (https://github.com/kserve/open-inference-protocol) with Triton's
extension for binary tensors: a JSON header whose length is in the HTTP header
:data:`HEADER_LENGTH`, then the raw little-endian tensors in the header's order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from deploy.serving.refusals import ProtocolError, Refusal
from deploy.serving.tensors import DATATYPES, array_from_bytes, array_from_json, bytes_of, json_of

HEADER_LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ("binary_tensor_data",)

MOST_AXES = 8
MOST_TENSORS = 64

_SPECIFICATION = "see the OpenAPI description at /openapi.json"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output that a client asks for."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a client sent.

    Attributes:
        id: Goes back with the answer.
        inputs: By name.
        wanted: Outputs asked for by name; empty for all of them.
        binary: Whether outputs that are not named are to come back in binary.
        timeout_us: How long the client waits, in microseconds; None if it did not say.
        truncate: Whether texts that are too long may be cut.
    """

    id: str
    inputs: Mapping[str, np.ndarray]
    wanted: tuple[Wanted, ...]
    binary: bool
    timeout_us: int | None
    truncate: bool


def parse_request(body: bytes, header_length: str | None) -> InferRequest:
    """Read the body of an inference request.

    Args:
        body: As it came.
        header_length: Value of the HTTP header :data:`HEADER_LENGTH`; None if it was not sent.

    Raises:
        ProtocolError: Naming what is not as the protocol wants it.
    """
    length = _header_length(header_length, len(body))
    header = _object(_json(body[:length]), "the request")
    parameters = _parameters(header, "the request")
    timeout = parameters.get("timeout")
    if timeout is not None and (type(timeout) is not int or timeout < 1):
        raise ProtocolError("timeout is no positive integer", fix="give it in microseconds")
    return InferRequest(
        id=_text(header, "id", "the request", default=""),
        inputs=_inputs(header, body[length:]),
        wanted=_wanted(header, _flag(parameters, "binary_data_output", default=False)),
        binary=_flag(parameters, "binary_data_output", default=False),
        timeout_us=timeout,
        truncate=_flag(parameters, "truncate", default=False),
    )


def select_outputs(
    request: InferRequest, outputs: Mapping[str, np.ndarray]
) -> list[tuple[Wanted, np.ndarray]]:
    """Return the outputs that the client asked for, in its order.

    Raises:
        ProtocolError: If one of them does not exist.
    """
    wanted = request.wanted or tuple(Wanted(name, request.binary) for name in outputs)
    check_wanted(request, list(outputs))
    return [(item, outputs[item.name]) for item in wanted]


def check_wanted(request: InferRequest, names: Sequence[str]) -> None:
    """Refuse an output that does not exist, before anything runs.

    Raises:
        ProtocolError: Naming it.
    """
    for item in request.wanted:
        if item.name not in names:
            raise ProtocolError(
                f"there is no output {item.name!r}", fix=f"the outputs: {', '.join(names)}"
            )


def encode_response(
    model: str, version: str, id: str, outputs: Sequence[tuple[Wanted, np.ndarray]]
) -> tuple[bytes, int | None]:
    """Write an answer.

    Returns:
        The body, and the length of its JSON header if tensors in binary follow it.

    Raises:
        Refusal: If an output holds NaN or infinite values, which JSON cannot.
    """
    entries, tails = [], []
    for item, values in outputs:
        entry: dict[str, Any] = {
            "name": item.name,
            "datatype": DATATYPES[values.dtype.name],
            "shape": list(values.shape),
        }
        if item.binary:
            tails.append(bytes_of(values))
            entry["parameters"] = {"binary_data_size": len(tails[-1])}
        elif values.dtype.kind == "f" and not np.isfinite(values).all():
            raise Refusal(
                500, f"output {item.name!r} holds NaN or infinite values", fix="ask for binary data"
            )
        else:
            entry["data"] = json_of(values)
        entries.append(entry)
    header: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": entries}
    if id:
        header["id"] = id
    raw = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([raw, *tails]), len(raw) if tails else None


def _header_length(given: str | None, size: int) -> int:
    if given is None:
        return size
    if not (given.isascii() and given.isdigit()) or len(given) > 12 or int(given) > size:
        raise ProtocolError(
            f"{HEADER_LENGTH} is no length within the body of {size} bytes",
            fix="send the length of the JSON that the body starts with",
        )
    return int(given)


def _json(raw: bytes) -> Any:
    def refuse(name: str) -> Any:
        raise ValueError(name)

    try:
        return json.loads(raw.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as err:
        # a ValueError's text may quote megabytes of the body
        raise ProtocolError("the body is not valid JSON in UTF-8", fix=_SPECIFICATION) from err


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError(f"{what} is not a JSON object", fix=_SPECIFICATION)
    return value


def _list(holder: Mapping[str, Any], key: str) -> list[Any]:
    value = holder.get(key)
    if not isinstance(value, list) or len(value) > MOST_TENSORS:
        raise ProtocolError(
            f"{key} is not a list of at most {MOST_TENSORS} tensors", fix=_SPECIFICATION
        )
    return value


def _text(holder: Mapping[str, Any], key: str, what: str, default: str | None = None) -> str:
    value = holder.get(key, default)
    if not isinstance(value, str) or len(value) > 256:
        raise ProtocolError(
            f"{key} of {what} is not a text of at most 256 characters", fix=_SPECIFICATION
        )
    return value


def _parameters(holder: Mapping[str, Any], what: str) -> dict[str, Any]:
    found = _object(holder.get("parameters", {}), f"parameters of {what}")
    for refused in ("shared_memory_region", "classification"):
        if refused in found:
            raise ProtocolError(
                f"{refused} is not supported", fix=f"extensions: {', '.join(EXTENSIONS)}"
            )
    return found


def _flag(parameters: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise ProtocolError(f"{key} is neither true nor false", fix=_SPECIFICATION)
    return value


def _wanted(header: Mapping[str, Any], binary: bool) -> tuple[Wanted, ...]:
    found = []
    for item in _list(header, "outputs") if "outputs" in header else ():
        entry = _object(item, "an output")
        name = _text(entry, "name", "an output")
        parameters = _parameters(entry, f"output {name!r}")
        found.append(Wanted(name, _flag(parameters, "binary_data", default=binary)))
    if len({w.name for w in found}) < len(found):
        raise ProtocolError("an output is asked for twice", fix="name each output once")
    return tuple(found)


def _inputs(header: Mapping[str, Any], tail: bytes) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    start = 0
    for item in _list(header, "inputs"):
        entry = _object(item, "an input")
        name = _text(entry, "name", "an input")
        shape = _shape(entry, name)
        datatype = _text(entry, "datatype", f"input {name!r}")
        if datatype not in DATATYPES.values():
            raise ProtocolError(
                f"input {name!r} has the unknown datatype {datatype!r}",
                fix=f"datatypes: {', '.join(sorted(DATATYPES.values()))}",
            )
        if name in found:
            raise ProtocolError(f"input {name!r} is given twice", fix="name each input once")
        size = _parameters(entry, f"input {name!r}").get("binary_data_size")
        if (size is None) == ("data" not in entry):
            raise ProtocolError(
                f"input {name!r} has not exactly one of data and binary_data_size",
                fix="send data in the JSON, or its size there and the bytes after the JSON",
            )
        if size is None:
            found[name] = array_from_json(name, datatype, shape, entry["data"])
            continue
        if type(size) is not int or not 0 <= size <= len(tail) - start:
            raise ProtocolError(
                f"binary_data_size of input {name!r} is no length within the body",
                fix=f"send it with {HEADER_LENGTH}, and the bytes after the JSON",
            )
        found[name] = array_from_bytes(name, datatype, shape, tail[start : start + size])
        start += size
    if start != len(tail):
        raise ProtocolError(
            f"{len(tail) - start} bytes at the end of the body belong to no input",
            fix="make the sizes in binary_data_size add up to the bytes after the JSON",
        )
    return found


def _shape(entry: Mapping[str, Any], name: str) -> tuple[int, ...]:
    shape = entry.get("shape")
    whole = isinstance(shape, list) and len(shape) <= MOST_AXES
    if not whole or not all(type(n) is int and 0 <= n < 2**31 for n in shape or ()):
        raise ProtocolError(
            f"shape of input {name!r} is not a list of at most {MOST_AXES} lengths",
            fix=_SPECIFICATION,
        )
    found = tuple(shape or ())
    if prod(found) >= 2**31:
        raise ProtocolError(f"shape of input {name!r} is too large", fix="send less at a time")
    return found
