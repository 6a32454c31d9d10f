"""Stands in for Triton's ONNX Runtime backend, which the wheel of the real server lacks.

A Python-based backend of that name, so that an unmodified ``backend: "onnxruntime"`` loads. What it
proves is everything around that backend: configurations, batching, warm-up, ensembles, files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self._inputs = [i["name"] for i in config["input"]]
        self._outputs = [o["name"] for o in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Join all requests, which Triton sends together only if their lengths are equal."""
        feeds = {
            name: [triton.get_input_tensor_by_name(r, name).as_numpy() for r in requests]
            for name in self._inputs
        }
        ends = np.cumsum([len(array) for array in feeds[self._inputs[0]]])[:-1]
        joined = {name: np.concatenate(arrays) for name, arrays in feeds.items()}
        outputs = [np.split(o, ends) for o in self._session.run(self._outputs, joined)]
        named = [
            dict(zip(self._outputs, parts, strict=True)) for parts in zip(*outputs, strict=True)
        ]
        return [
            triton.InferenceResponse([triton.Tensor(n, v) for n, v in answer.items()])
            for answer in named
        ]
