"""Small ONNX graphs written as text, and float64 or ONNX Runtime results to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import numpy_helper, parser

Arrays = Mapping[str, np.ndarray]


def proto_from_text(
    text: str, weights: Arrays | None = None, *, opset: int = 20
) -> onnx.ModelProto:
    """Parse ``name (inputs) => (outputs) { nodes }`` and add weights as initializers.

    ``__`` in a node's name becomes a dot, which the text format does not allow there.
    """
    header = f'<ir_version: 10, opset_import: ["": {opset}]>'
    model: onnx.ModelProto = parser.parse_model(f"{header} {text}")
    for node in model.graph.node:
        node.name = node.name.replace("__", ".")
    for name, array in (weights or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def graph_from_text(text: str, weights: Arrays | None = None, *, opset: int = 20) -> ir.Model:
    """Return the same as a graph of onnx_ir."""
    return ir.from_proto(proto_from_text(text, weights, opset=opset))


def normal(seed: int, *shape: int) -> np.ndarray:
    """Return float32 standard normals."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run_plainly(model: ir.Model | onnx.ModelProto | Path, feeds: Arrays) -> list[Any]:
    """Run in ONNX Runtime with every optimization off: each node is executed as it stands."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if isinstance(model, Path):
        source: bytes | str = str(model)
    else:
        proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
        source = proto.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    outputs: list[Any] = session.run(None, dict(feeds))
    return outputs


def operators(model: ir.Model) -> list[str]:
    """Return the operators in order."""
    return [node.op_type for node in model.graph]


def printed(model: ir.Model) -> str:
    """Return one line per input, node, initializer and output."""
    graph = model.graph
    lines = [f"input {v.name} {v.dtype} {v.shape}" for v in graph.inputs]
    for node in graph:
        attributes = "".join(f" {k}={a.value}" for k, a in sorted(node.attributes.items()))
        inputs = ", ".join("-" if v is None else str(v.name) for v in node.inputs)
        results = ", ".join(str(v.name) for v in node.outputs)
        name = f"  # {node.name}" if node.name else ""
        lines.append(f"{results} = {node.op_type}({inputs}){attributes}{name}")
    lines += [
        f"initializer {name} {value.dtype} {value.shape}"
        for name, value in sorted(graph.initializers.items())
    ]
    lines += [f"output {v.name} {v.dtype} {v.shape}" for v in graph.outputs]
    return "\n".join(lines) + "\n"
