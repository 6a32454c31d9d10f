"""OpenVINO on the CPU: FP32, BF16, FP16 and INT8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calib.inputs import GraphInput
from calib.placement import Rules
from deploy.hardware import cpu_flags
from deploy.kernels import Kernel
from deploy.sessions import (
    BuildRequest,
    Configuration,
    Precision,
    Running,
    check_inputs,
    check_shapes,
)
from trueint8.errors import BuildError, MissingDependency, RunError

FILE = "model.xml"

_HINT: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_CAPABILITY: dict[Precision, str] = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}
_NAME_OF = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
_MATMUL_LAYERS = ("FullyConnected", "MatMul")
_FUSED_LAYERS = ("Subgraph", "ScaledDotProductAttentionWithKVCache", "MHA")


def _library() -> Any:
    try:
        import openvino
    except ImportError as err:
        raise MissingDependency(
            "the engine openvino needs the package openvino, which is not installed",
            fix="pip install 'trueint8[cpu]'",
        ) from err
    return openvino


class OpenVinoSession:
    """A compiled model and one infer request."""

    def __init__(self, path: Path, rest: Precision, running: Running) -> None:
        library = _library()
        self._compiled = compile_model(library, path, rest, running.threads)
        self._request = self._compiled.create_infer_request()
        self._outputs = [o.get_any_name() for o in self._compiled.outputs]
        self.inputs = [
            GraphInput(
                i.get_any_name(),
                np.dtype(i.get_element_type().to_dtype()),
                tuple(d.get_length() if d.is_static else None for d in i.get_partial_shape()),
            )
            for i in self._compiled.inputs
        ]

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch; outputs are copies."""
        check_inputs(self.inputs, arrays)
        check_shapes(self.inputs, arrays)
        try:
            self._request.infer({i.name: arrays[i.name] for i in self.inputs})
        except RuntimeError as err:
            raise RunError(
                f"OpenVINO failed: {str(err).splitlines()[0]}", fix="check shapes and token ids"
            ) from err
        return {
            name: self._request.get_output_tensor(i).data.copy()
            for i, name in enumerate(self._outputs)
        }

    def kernel_times(self) -> dict[str, float]:
        """Refuse: this session keeps no times."""
        raise NotImplementedError

    def close(self) -> None:
        """Drop the request and the compiled model."""
        self._request = self._compiled = None

    def __enter__(self) -> OpenVinoSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def compile_model(library: Any, path: Path, rest: Precision, threads: int) -> Any:
    """Compile for latency with the precision set explicitly: the default is BF16 on some CPUs."""
    properties = {
        "INFERENCE_PRECISION_HINT": _HINT[rest],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    try:
        core = library.Core()
        return core.compile_model(core.read_model(str(path)), "CPU", properties)
    except RuntimeError as err:
        raise BuildError(
            f"OpenVINO cannot compile {path.name}: {str(err).strip()}",
            fix="check the graph with onnx.checker; if it is valid, try --engine onnxruntime",
        ) from err


class OpenVino:
    """Builds an OpenVINO IR of the Q/DQ graph; the CPU plugin makes INT8 kernels of it."""

    name = "openvino"
    runs_here = True
    runs_checkpoint = False
    placement = Rules()
    options = frozenset[str]()

    def version(self) -> str:
        """Return OpenVINO's version."""
        return str(_library().__version__).split("-")[0]

    def floats(self) -> list[Configuration]:
        """Return what the CPU plugin says it can compute in."""
        known = _library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return [Configuration("float", p) for p, name in _CAPABILITY.items() if name in known]

    def int8_rest(self) -> Precision:
        """Return BF16 where the CPU multiplies it in tiles (AMX), else FP32.

        Without AMX the plugin's BF16 kernels are slower than its FP32 ones.
        """
        return "bf16" if "amx_bf16" in cpu_flags() else "fp32"

    def build(self, request: BuildRequest) -> None:
        """Convert the Q/DQ graph to IR with its weights as they are."""
        library = _library()
        with request.progress.step("build openvino"):
            try:
                model = library.Core().read_model(str(request.int8_graph))
                library.save_model(model, str(request.folder / FILE), compress_to_fp16=False)
            except RuntimeError as err:
                raise BuildError(
                    f"OpenVINO cannot convert the graph: {str(err).strip()}",
                    fix="check free disk space and the graph with onnx.checker",
                ) from err

    def audit(
        self,
        path: Path,
        configuration: Configuration,
        running: Running,
        matmuls: Mapping[str, str],
    ) -> list[Kernel]:
        """Read ``runtimePrecision`` of every matmul from the compiled model.

        Attention that was fused into one subgraph reports the subgraph's precision;
        a layer that gives a graph output is called after that output.
        """
        compiled = compile_model(_library(), path / FILE, configuration.rest, running.threads)
        found: dict[str, dict[str, str]] = {"matmul": {}, "fused": {}, "weight": {}}
        for op in compiled.get_runtime_model().get_ordered_ops():
            info = {k: str(v.value) for k, v in op.get_rt_info().items()}
            layer = info.get("layerType", "")
            if layer not in (*_MATMUL_LAYERS, *_FUSED_LAYERS):
                continue
            group = found["matmul" if layer in _MATMUL_LAYERS else "fused"]
            precision = _NAME_OF.get(info["runtimePrecision"], info["runtimePrecision"])
            group |= dict.fromkeys(info["originalLayersNames"].split(","), precision)
            found["weight"][_weight_name(op)] = precision
        told = {
            name: _lookup(found["matmul"], name)
            or found["weight"].get(f"{name}.weight_int8")
            or (found["matmul"].get(returned) if returned else None)
            or _lookup(found["fused"], name)
            for name, returned in matmuls.items()
        }
        return [Kernel(n, "matmul", p, matmuls=(n,)) for n, p in told.items() if p]

    def open(self, path: Path, configuration: Configuration, running: Running) -> OpenVinoSession:
        """Compile a float ``.onnx`` or the IR in the engine's folder."""
        if configuration.graph == "int8" and configuration.rest == "fp16":
            raise RunError(
                "OpenVINO's INT8 graphs hang with an FP16 hint on some processors",
                fix="use precision fp32 or bf16 for what surrounds the INT8 matmuls",
            )
        file = path / FILE if configuration.graph == "int8" else path
        return OpenVinoSession(file, configuration.rest, running)


def _weight_name(op: Any) -> str:
    """Return the name of the constant behind a layer's second input, or "" if there is none.

    A layer whose bias is zero or absent can lose its own name to a multiplication after it.
    """
    if op.get_input_size() < 2:
        return ""
    node = op.input_value(1).get_node()
    while node.get_type_name() and node.get_input_size() > 0:
        node = node.input_value(0).get_node()
    return str(node.get_friendly_name())


def _lookup(found: dict[str, str], name: str) -> str | None:
    """Layers keep the matmul's name, or have it as a prefix: ``name/DequantizationMultiply``."""
    matches = {p for part, p in found.items() if part == name or part.startswith(f"{name}/")}
    return matches.pop() if len(matches) == 1 else None


ENGINE = OpenVino()
