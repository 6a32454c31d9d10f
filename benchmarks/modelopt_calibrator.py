"""One of Model Optimizer's calibrators, in its own environment; imports nothing of ours.

    python -I modelopt_calibrator.py GRAPH DATA.npz entropy|max

Prints the nanoseconds of calibration and the largest resident set as JSON. These are the
calibrators behind its ONNX quantizer: ONNX Runtime's with its changes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from modelopt.onnx.quantization.ort_patching import patch_ort_modules
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, calibrate


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Batches of an .npz whose keys are ``batch/input``."""

    def __init__(self, path: str) -> None:
        batches: dict[str, dict[str, np.ndarray]] = {}
        with np.load(path) as arrays:
            for key in arrays.files:
                batch, _, name = key.partition("/")
                batches.setdefault(batch, {})[name] = arrays[key]
        self._left = iter(batches.values())

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch."""
        return next(self._left, None)


def main() -> None:
    """Calibrate once."""
    graph, data, method = sys.argv[1:]
    patch_ort_modules()
    methods = {"entropy": CalibrationMethod.Entropy, "max": CalibrationMethod.MinMax}
    reader = Reader(data)
    names = [node.name for node in onnx.load(graph).graph.node if node.op_type == "MatMul"]
    with tempfile.TemporaryDirectory() as scratch:
        start, cpu = time.perf_counter_ns(), time.process_time_ns()
        calibrator = calibrate.create_calibrator(
            graph,
            names,  # it takes nodes here, where ONNX Runtime takes operators
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=methods[method],
            extra_options={
                "ExecutionProviders": ["CPUExecutionProvider"],
                "TrtExtraPluginLibraryPaths": None,
                "TrtRtxBackend": "legacy",
            },
        )
        calibrator.collect_data(reader)
        calibrator.compute_data()
        taken = time.perf_counter_ns() - start
        cpu = time.process_time_ns() - cpu
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(json.dumps({"ns": taken, "cpu_ns": cpu, "peak_kib": peak}))


if __name__ == "__main__":
    main()
