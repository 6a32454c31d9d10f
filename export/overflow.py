"""Which values of a graph in FP16 leave its range on real data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.initializers import fresh_name
from export.onnx_file import load_clean, save_model
from export.reference import open_reference


def overflowing_values(path: Path, batch: Mapping[str, np.ndarray], *, scratch: Path) -> list[str]:
    """Run a graph and return the FP16 values that are infinite or NaN somewhere, in order.

    Each value's largest magnitude becomes an output in FP16, because a runtime without FP16
    kernels computes in FP32 and rounds only what leaves it.

    Args:
        path: A graph in FP16.
        batch: Arrays named as its inputs.
        scratch: A folder for the instrumented graph.
    """
    model = load_clean(path)
    graph = model.graph
    watched = {}
    for value in [v for n in graph for v in n.outputs if v.dtype == ir.DataType.FLOAT16]:
        size = ir.node("Abs", [value])
        largest = ir.node("ReduceMax", size.outputs, attributes={"keepdims": 0})
        result = largest.outputs[0]
        result.name = fresh_name(graph, f"{value.name}_largest")
        result.type, result.shape = ir.TensorType(ir.DataType.FLOAT16), ir.Shape([])
        graph.extend([size, largest])
        graph.outputs.append(result)
        watched[result.name] = str(value.name)
    save_model(model, scratch / "watched.onnx")
    with open_reference(scratch / "watched.onnx") as run:
        found = run(batch, list(watched))
    return [name for result, name in watched.items() if not np.isfinite(found[result]).all()]
