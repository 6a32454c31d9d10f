"""The smallest INT8 engine there is: does this engine work on this machine at all?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from calib.placement import place_qdq
from calib.qdq import insert_qdq
from calib.schemes import Range, params_of_range
from deploy.engines import ENGINES
from deploy.kernels import executed_precisions
from deploy.sessions import BuildRequest, Engine, Running, Shapes, int8_configuration
from export.initializers import add_initializer
from export.matmuls import find_matmuls
from export.onnx_file import save_model
from trueint8.errors import RunError
from trueint8.progress import Silence

MATMULS = {"probe": "y"}
"""Of the graph, each with the output it gives."""

_WIDTH = 64


def probe_engine(name: str, folder: Path) -> str:
    """Build Y = X·W in INT8, check what it runs in, and run it where it can run.

    Returns:
        The precision the engine says it executes the matmul in.

    Raises:
        RunError: If it is not INT8 or the result is wrong.
    """
    engine: Engine = ENGINES.load(name)
    x, weight = _operands()
    graph = folder / "probe.onnx"
    save_model(matmul_graph(weight, float(np.abs(x).max())), graph)
    shapes: Shapes = {"x": (x.shape, x.shape, x.shape)}
    engine.build(BuildRequest(graph, folder, shapes, Silence()))
    configuration, matmuls = int8_configuration(engine), MATMULS
    assert configuration is not None
    running = Running(1, shapes=shapes)
    kernels = engine.audit(folder, configuration, running, matmuls)
    precision = executed_precisions(kernels, matmuls)["probe"]
    if precision != "int8":
        raise RunError(f"{name} runs the probe in {precision}", fix="check the engine's version")
    if engine.runs_here:
        with engine.open(folder, configuration, running) as session:
            error = np.abs(session.run({"x": x})["y"] - x @ weight).max()
        if not error < 0.1 * np.abs(x @ weight).max():
            raise RunError(f"{name} computes a wrong INT8 result", fix="check the engine's version")
    return precision


def _operands() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((4, _WIDTH)).astype(np.float32)
    return x, draw.standard_normal((_WIDTH, _WIDTH)).astype(np.float32)


def matmul_graph(weight: np.ndarray, amax: float | None = None) -> ir.Model:
    """Return Y = X·W with any number of rows.

    Args:
        weight: W.
        amax: The range of X, for Q/DQ around the matmul; None for a float graph.
    """
    depth, width = weight.shape
    kind = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(["batch", depth]), type=kind)
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="probe")
    matmul = ir.node("MatMul", [x, add_initializer(graph, "w", weight)], name="probe")
    output = matmul.outputs[0]
    output.name, output.shape, output.type = "y", ir.Shape(["batch", width]), kind
    graph.append(matmul)
    graph.outputs.append(output)
    model = ir.Model(graph, ir_version=10)
    if amax is not None:
        placement = place_qdq(find_matmuls(model, modules_named=False), quantize_head=True)
        insert_qdq(model, placement, {"x": params_of_range("x", Range(-amax, amax))})
    return model
