"""One engine of a bundle behind Triton's Python backend, for engines that Triton has none for.

The server's Python needs this package with the engine's extra; the bundle lies beside the model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

import deploy


class TritonPythonModel:
    """What Triton creates, once per instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check the bundle's hashes and open the engine."""
        config = json.loads(args["model_config"])
        told = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._outputs = [o["name"] for o in config["output"]]
        self._batched = config["max_batch_size"] > 0
        self._session = deploy.load(
            Path(args["model_repository"]) / args["model_version"] / "bundle",
            engine=told["engine"],
            graph="float" if told["graph"] == "float" else "int8",
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, those of equal lengths as one batch."""
        feeds = [{i.name: _input(r, i.name) for i in self._session.inputs} for r in requests]
        found: list[Any] = [None] * len(requests)
        for group in _alike(feeds) if self._batched else [[n] for n in range(len(feeds))]:
            try:
                answers = self._run([feeds[n] for n in group])
            except Exception as err:  # one bad batch must not end the server's process
                failed = triton.InferenceResponse(error=triton.TritonError(str(err)))
                answers = [failed for _ in group]
            for n, answer in zip(group, answers, strict=True):
                found[n] = answer
        return found

    def _run(self, feeds: list[dict[str, np.ndarray]]) -> list[Any]:
        joined = {name: np.concatenate([f[name] for f in feeds]) for name in feeds[0]}
        outputs = self._session.run(joined)
        ends = np.cumsum([len(next(iter(f.values()))) for f in feeds])[:-1]
        parts = {name: np.split(outputs[name], ends) for name in self._outputs}
        return [
            triton.InferenceResponse(
                [triton.Tensor(name, np.ascontiguousarray(parts[name][n])) for name in parts]
            )
            for n in range(len(feeds))
        ]

    def finalize(self) -> None:
        """Free the engine."""
        self._session.close()


def _input(request: Any, name: str) -> np.ndarray:
    array: np.ndarray = triton.get_input_tensor_by_name(request, name).as_numpy()
    return array


def _alike(feeds: list[dict[str, np.ndarray]]) -> list[list[int]]:
    """Return which requests have equal shapes but for the batch."""
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for n, feed in enumerate(feeds):
        groups.setdefault(tuple(a.shape[1:] for a in feed.values()), []).append(n)
    return list(groups.values())
