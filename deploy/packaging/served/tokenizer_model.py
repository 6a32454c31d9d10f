"""Texts to token ids, behind Triton's Python backend; needs numpy and tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from tokenizers import Tokenizer


class TritonPythonModel:
    """What Triton creates, once per instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer beside this file, twice: whole, and cutting."""
        config = json.loads(args["model_config"])
        told = {key: value["string_value"] for key, value in config["parameters"].items()}
        file = Path(args["model_repository"]) / args["model_version"] / "tokenizer.json"
        self._most, self._step = int(told["max_tokens"]), int(told["pad_to_multiple"])
        self._pad = int(told["pad_id"])
        self._whole, self._cut = Tokenizer.from_file(str(file)), Tokenizer.from_file(str(file))
        for tokenizer in (self._whole, self._cut):
            tokenizer.no_padding()
            tokenizer.no_truncation()
        self._cut.enable_truncation(self._most)
        self._outputs = {
            o["name"]: triton.triton_string_to_numpy(o["data_type"]) for o in config["output"]
        }

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request alone: its texts are padded to the longest of them."""
        return [self._answered(request) for request in requests]

    def _answered(self, request: Any) -> Any:
        texts = triton.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
        truncate = json.loads(request.parameters() or "{}").get("truncate", False)
        try:
            arrays = self._encoded([t.decode("utf-8") for t in texts], truncate)
        except ValueError as err:
            return triton.InferenceResponse(error=triton.TritonError(str(err)))
        return triton.InferenceResponse([triton.Tensor(n, arrays[n]) for n in self._outputs])

    def _encoded(self, texts: list[str], truncate: bool) -> dict[str, np.ndarray]:
        """Return arrays (B, T), T rounded up: requests of equal T share batches."""
        found = (self._cut if truncate else self._whole).encode_batch(texts)
        longest = max(len(e.ids) for e in found)
        if not 1 <= longest <= self._most:
            raise ValueError(
                f"a text has {longest} tokens; the limit is {self._most}: send a shorter text, "
                "or the parameter truncate: true"
            )
        length = min(-(-longest // self._step) * self._step, self._most)
        for encoding in found:
            encoding.pad(length, pad_id=self._pad)
        made = {
            "input_ids": [e.ids for e in found],
            "attention_mask": [e.attention_mask for e in found],
            "token_type_ids": [e.type_ids for e in found],
            "position_ids": [range(length) for _ in found],
        }
        return {name: np.array(made[name], dtype) for name, dtype in self._outputs.items()}
