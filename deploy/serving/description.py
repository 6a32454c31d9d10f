"""What OpenAPI says of the protocol beyond what the routes' signatures do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploy.serving.protocol import HEADER_LENGTH, MOST_AXES, MOST_TENSORS
from deploy.serving.tensors import DATATYPES


def name_models(schema: dict[str, Any], names: Sequence[str], version: str) -> dict[str, Any]:
    """Say in an OpenAPI document which models and versions its paths may name.

    Args:
        schema: As FastAPI makes it; changed.
        names: Of all models.
        version: Of each of them.
    """
    known = {"name": list(names), "version": [version]}
    for operations in schema["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["schema"]["enum"] = known[parameter["name"]]
    return schema


_STATUSES = {
    400: "The request is not what the model or the protocol takes.",
    401: "No valid token.",
    404: "No such model or version.",
    408: "The body did not arrive within the deadline.",
    413: "The body is too large.",
    415: "The body is neither JSON nor an octet stream.",
    429: "The queue is full.",
    500: "The engine failed, or its answer cannot be written in JSON.",
    503: "The server is shutting down.",
    504: "No answer within the deadline.",
}

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": _ERROR}}
    return {s: {"description": _STATUSES[s], "content": content} for s in statuses}


OPEN = _errors(503)
ERRORS = _errors(*_STATUSES)
TEXT: dict[int | str, dict[str, Any]] = _errors(401) | {
    200: {"description": "Metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}

_INPUT = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {
            "type": "array",
            "maxItems": MOST_AXES,
            "items": {"type": "integer", "minimum": 0},
        },
        "datatype": {"enum": sorted(DATATYPES.values())},
        "data": {"type": "array"},
        "parameters": {
            "type": "object",
            "properties": {"binary_data_size": {"type": "integer", "minimum": 0}},
        },
    },
}

_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "maxItems": MOST_TENSORS, "items": _INPUT},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string"},
                    "parameters": {
                        "type": "object",
                        "properties": {"binary_data": {"type": "boolean"}},
                    },
                },
            },
        },
        "parameters": {
            "type": "object",
            "properties": {
                "timeout": {"type": "integer", "minimum": 1, "description": "Microseconds."},
                "truncate": {"type": "boolean", "description": "Cut texts that are too long."},
                "binary_data_output": {"type": "boolean"},
            },
        },
    },
}

_BINARY = {"schema": {"type": "string", "format": "binary"}}

INFER: dict[str, Any] = {
    "parameters": [
        {
            "name": HEADER_LENGTH,
            "in": "header",
            "required": False,
            "schema": {"type": "integer", "minimum": 0},
            "description": "Length of the JSON that the body starts with; tensors follow it.",
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _REQUEST},
            "application/octet-stream": _BINARY,
        },
    },
}


_ANSWER = {
    "type": "object",
    "required": ["model_name", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": _INPUT},
    },
}

ANSWERS: dict[int | str, dict[str, Any]] = ERRORS | {
    200: {
        "description": "The outputs.",
        "content": {"application/json": {"schema": _ANSWER}, "application/octet-stream": _BINARY},
    }
}
