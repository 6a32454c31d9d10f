"""A slow operator that is planted in a graph appears in the part that it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.engines import ENGINES
from deploy.ledger.dispatch import Dispatch
from deploy.ledger.parts import Timed, parts_of
from deploy.ledger.record import Part, PartName
from deploy.ledger.timing import time_interleaved_sessions
from deploy.sessions import Configuration, Engine, Running, Shapes

ROWS, WIDTH, DEPTH = 64, 128, 128
FLOAT = Configuration("float", "fp32")
SHAPES: Shapes = {"x": ((ROWS, WIDTH),) * 3}
RUNNING = Running(1, shapes=SHAPES)
MATMULS = {"first": "", "second": "y"}

Node = tuple[str, Sequence[str], str]
SPREAD: list[Node] = [("Unsqueeze", ["h", "two"], "u"), ("MatMul", ["u", "ones"], "e")]
PLANTED: dict[PartName, list[Node]] = {
    "other operators": [
        *SPREAD,
        ("CumSum", ["e", "zero"], "c0"),
        *[("CumSum", [f"c{i}", "zero"], f"c{i + 1}") for i in range(5)],
        ("ReduceMax", ["c5", "two"], "g"),
    ],
    "pointwise": [
        *SPREAD,
        ("Erf", ["e"], "c0"),
        *[("Erf", [f"c{i}"], f"c{i + 1}") for i in range(29)],
        ("ReduceMax", ["c29", "two"], "g"),
    ],
    "reformat": [*SPREAD, ("Transpose", ["e"], "t")],
}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Transpose": {"perm": [2, 1, 0]},
    "ReduceMax": {"keepdims": 0},
}


def write(path: Path, planted: Sequence[Node]) -> Path:
    """Write x·W, what is planted, and a second matmul; a Transpose gives an output of its own."""
    draw = np.random.default_rng(0)
    constants = {
        "w": draw.standard_normal((WIDTH, WIDTH)).astype(np.float32),
        "ones": draw.standard_normal((1, DEPTH)).astype(np.float32),
        "zero": np.array([0]),
        "two": np.array([2]),
    }
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="first")]
    for operator, inputs, output in planted:
        attributes = ATTRIBUTES.get(operator, {})
        name = f"planted-{output}"
        nodes.append(helper.make_node(operator, inputs, [output], name=name, **attributes))
    outputs = {node.output[0] for node in nodes}
    last = "g" if "g" in outputs else "h"
    nodes.append(helper.make_node("MatMul", [last, "w"], ["y"], name="second"))
    shapes = {"y": [ROWS, WIDTH]} | ({"t": [DEPTH, WIDTH, ROWS]} if "t" in outputs else {})
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [ROWS, WIDTH])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def parts(engine: Engine, paths: dict[str, Path]) -> dict[str, dict[PartName, Part]]:
    """Time graphs in turn and return the parts of each."""
    batch = {"x": np.ones((ROWS, WIDTH), np.float32)}
    opened = {name: (path, FLOAT) for name, path in paths.items()}
    times = time_interleaved_sessions(engine, opened, RUNNING, batch, rounds=1, round_ms=1)
    found = {}
    for name, path in paths.items():
        timed = Timed(
            kernels=engine.audit(path, FLOAT, RUNNING, MATMULS),
            times_ns=times[name].kernels_ns,
            ceilings_ns=dict.fromkeys(MATMULS, 0.0),
            attentions=[],
            precision="fp32",
        )
        found[name] = {part.name: part for part in parts_of(timed, Dispatch(0, ""))}
    return found


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_planted_operator_appears_in_its_own_part(name: str, tmp_path: Path) -> None:
    """What is planted computes on 128 times the elements, so its part outweighs the others."""
    paths = {"nothing": write(tmp_path / "nothing.onnx", [])}
    for index, (part, planted) in enumerate(PLANTED.items()):
        paths[part] = write(tmp_path / f"{index}.onnx", planted)
    found = parts(ENGINES.load(name), paths)
    for part in PLANTED:
        own, plain = found[part][part], found["nothing"][part]
        assert own.kernels > plain.kernels
        assert own.measured_ms > 20 * plain.measured_ms
        assert own.ceiling_ms == 0
        rest = [p for p in found[part].values() if p.name not in (part, "matmuls below peak")]
        assert own.measured_ms > sum(p.measured_ms for p in rest)
    assert "CumSum" in found["other operators"]["other operators"].detail
    assert "Transpose" in found["reformat"]["reformat"].detail
    matmuls = {name: held["matmuls below peak"].kernels for name, held in found.items()}
    assert matmuls == {"nothing": 2} | dict.fromkeys(PLANTED, 3)
