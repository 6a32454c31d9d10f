"""Runs in Model Optimizer's own environment, by path, and imports nothing of ours.

    python -I _modelopt_child.py request.json

The request names ``graph``, ``data`` (an .npz whose keys are ``batch/input``), ``method``
(``entropy`` or ``max``), ``keep_float``, ``external_data`` and ``out``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from modelopt.onnx.quantization import quantize
from onnxruntime.quantization import CalibrationDataReader


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Batches of an .npz in order; what Model Optimizer asks of a reader."""

    def __init__(self, path: str) -> None:
        self._batches: dict[str, dict[str, np.ndarray]] = {}
        with np.load(path) as arrays:
            for key in arrays.files:
                batch, _, name = key.partition("/")
                self._batches.setdefault(batch, {})[name] = arrays[key]
        self.rewind()

    def rewind(self) -> None:
        """Start again."""
        self._left: Iterator[dict[str, np.ndarray]] = iter(self._batches.values())

    def get_first(self) -> dict[str, np.ndarray]:
        """Return the first batch."""
        return next(iter(self._batches.values()))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch."""
        return next(self._left, None)


def main() -> None:
    """Quantize as the request says."""
    request: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    quantize(
        request["graph"],
        quantize_mode="int8",
        calibration_method=request["method"],
        calibration_data_reader=Reader(request["data"]),
        calibration_eps=["cpu"],
        op_types_to_quantize=["MatMul"],
        disable_mha_qdq=True,
        nodes_to_exclude=[f"^{re.escape(name)}$" for name in request["keep_float"]],
        high_precision_dtype="fp32",
        use_external_data_format=request["external_data"],
        output_path=request["out"],
        log_level="WARNING",
    )


if __name__ == "__main__":
    main()
