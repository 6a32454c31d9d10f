"""Triton's ONNX Runtime backend: the Q/DQ graph, which it optimizes when it loads it.

The bundle's own optimized graph stays behind: its fused operators are those of a later ONNX Runtime
than Triton's, and nobody promises that an earlier one has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.packaging.choosing import Choice
from deploy.packaging.model_config import set_parameters
from deploy.packaging.onnx_cap import write_capped
from deploy.sessions import Precision
from export.onnx_file import load_clean
from export.passes.unsigned_activations import UnsignedActivations

FILE = "model.onnx"


class OnnxRuntimeBackend:
    """See the module."""

    name = "onnxruntime"
    batches = True

    def on_gpu(self, choice: Choice) -> bool:
        """Return whether the bundle's provider is one of GPUs."""
        return choice.options.provider != "cpu"

    def write(self, choice: Choice, folder: Path) -> Path:
        """Write the graph, with unsigned activations where the CPU's kernels want them."""
        model = load_clean(choice.source_graph)
        if choice.graph == "int8" and not self.on_gpu(choice):
            UnsignedActivations()(model)
        write_capped(model, folder / FILE, choice.release)
        return folder / FILE

    def configure(self, config: Any, choice: Choice, instances: Any) -> None:
        """Set the optimization level; the TensorRT provider, where the bundle was built with it."""
        del instances
        config.optimization.graph.level = 1
        if choice.options.provider == "tensorrt":
            accelerators = config.optimization.execution_accelerators
            chosen = accelerators.gpu_execution_accelerator.add(name="tensorrt")
            chosen.parameters["precision_mode"] = "INT8" if choice.graph == "int8" else "FP32"
            chosen.parameters["trt_engine_cache_enable"] = "true"
        set_parameters(config, {"execution_mode": 0})

    def rest(self, choice: Choice) -> Precision:
        """Return that of the bundle's engine."""
        return choice.entry.rest if choice.graph == "int8" else "fp32"


BACKEND = OnnxRuntimeBackend()
