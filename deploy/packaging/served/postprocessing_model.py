"""A model's outputs to one row per text, behind Triton's Python backend; needs numpy."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    """What Triton creates, once per instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read what the rows are: embedding, softmax, sigmoid or value."""
        config = json.loads(args["model_config"])
        self._kind = config["parameters"]["kind"]["string_value"]
        self._output = config["output"][0]["name"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request alone."""
        found = []
        for request in requests:
            values, mask = (
                triton.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("values", "attention_mask")
            )
            rows = _RULES[self._kind](values.astype(np.float32), mask)
            answer = triton.Tensor(self._output, np.ascontiguousarray(rows, np.float32))
            found.append(triton.InferenceResponse([answer]))
        return found


def _embedding(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the mean over tokens that are no padding, of length 1."""
    if values.ndim == 3:
        weights = mask[..., None].astype(np.float32)
        values = (values * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.asarray(values / np.maximum(length, np.finfo(np.float32).tiny))


def _softmax(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    del mask
    raised = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def _sigmoid(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    del mask
    return np.asarray(np.exp(-np.logaddexp(0, -values)))


def _value(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    del mask
    return values


_RULES = {"embedding": _embedding, "softmax": _softmax, "sigmoid": _sigmoid, "value": _value}
