"""A client of plain HTTP, so that tests can send what no library would."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.serving.protocol import HEADER_LENGTH
from deploy.serving.tensors import DATATYPES, bytes_of

JSON = {"content-type": "application/json"}
BINARY = "application/octet-stream"
VOCABULARY = 40
"""Ids below this are in every test model's vocabulary."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of a refusal, which must tell nothing of the server's inside."""
        message = self.json["error"]
        assert list(self.json) == ["error"] and message
        assert "Traceback" not in message and 'File "' not in message
        return str(message)

    def array(self, name: str) -> np.ndarray:
        """An output that came in JSON."""
        assert self.status == 200, self.body
        output = next(o for o in self.json["outputs"] if o["name"] == name)
        assert output["datatype"] == "FP32"
        return np.array(output["data"], np.float32).reshape(output["shape"])


class Client:
    """Keeps its connection open, as pools of clients do."""

    def __init__(self, port: int, token: str | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._more = {"authorization": f"Bearer {token}"} if token else {}

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = JSON
    ) -> Reply:
        self._connection.request(method, path, body, {**headers, **self._more})
        with self._connection.getresponse() as response:
            found = {k.lower(): v for k, v in response.getheaders()}
            return Reply(response.status, found, response.read())

    def get(self, path: str) -> Reply:
        return self.ask("GET", path)

    def infer(self, request: Any, model: str = "m") -> Reply:
        return self.ask("POST", f"/v2/models/{model}/infer", json.dumps(request).encode())

    def metric(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics").body.decode(), re.M)
        assert found is not None, name
        return float(found[1])

    def close(self) -> None:
        self._connection.close()


def drawn(rows: int, length: int, seed: int) -> dict[str, np.ndarray]:
    """Inputs of a BERT, of ids that it knows."""
    ids = np.random.default_rng(seed).integers(5, VOCABULARY, (rows, length))
    ones = np.ones_like(ids)
    return {"input_ids": ids, "attention_mask": ones, "token_type_ids": ones * 0}


def request_of(arrays: Mapping[str, np.ndarray], **more: Any) -> dict[str, Any]:
    """A request in JSON."""
    inputs = [
        {
            "name": name,
            "datatype": DATATYPES[a.dtype.name],
            "shape": list(a.shape),
            "data": a.tolist(),
        }
        for name, a in arrays.items()
    ]
    return {"inputs": inputs, **more}


def text_request(*texts: str, **more: Any) -> dict[str, Any]:
    entry = {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}
    return {"inputs": [entry], **more}


def binary_body(arrays: Mapping[str, np.ndarray], **more: Any) -> tuple[bytes, dict[str, str]]:
    """A request with its tensors after the JSON, and the headers it needs."""
    inputs, tails = [], []
    for name, a in arrays.items():
        tails.append(bytes_of(a))
        entry = {"name": name, "datatype": DATATYPES[a.dtype.name], "shape": list(a.shape)}
        inputs.append({**entry, "parameters": {"binary_data_size": len(tails[-1])}})
    raw = json.dumps({"inputs": inputs, **more}).encode()
    return b"".join([raw, *tails]), {"content-type": BINARY, HEADER_LENGTH: str(len(raw))}
