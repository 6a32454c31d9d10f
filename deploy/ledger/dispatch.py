"""What an engine spends outside its kernels: measured on graphs that compute next to nothing.

Two graphs take the model's inputs and give outputs of the model's shapes; between them lie tiny
matmuls, few in one graph and many in the other. What a call takes beyond its kernels is a line
in the number of kernels:

    latency − Σ kernel times = call + kernel · n

``call`` is the price of handing inputs in and outputs out, ``kernel`` that of starting one. An
engine whose timing adds more to each kernel than starting one costs has a negative ``kernel``,
which takes that back from the times of the model's kernels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calib.inputs import GraphInput
from deploy.ledger.timing import Batch, SessionTimes, time_interleaved_sessions
from deploy.sessions import Configuration, Engine, Running
from export.initializers import add_initializer
from export.onnx_file import save_model

_WIDTH = 8
_FEW, _MANY = 4, 132
_OPSET = 17


@dataclass(frozen=True, slots=True)
class Dispatch:
    """What lies outside the kernels of a call, measured by itself, and how in words."""

    ns: float
    told: str


@dataclass(frozen=True, slots=True)
class Line:
    """What a call takes beyond its kernels, in nanoseconds.

    Attributes:
        call_ns: Of one call.
        empty_ns: What a kernel that does nothing adds to a call.
        told_ns: What its own time holds of that, as the engine tells it.
    """

    call_ns: float
    empty_ns: float
    told_ns: float

    def of(self, kernels: int) -> Dispatch:
        """Return what a call with so many kernels costs beyond their times."""
        return Dispatch(
            self.call_ns + (self.empty_ns - self.told_ns) * kernels,
            f"call {self.call_ns / 1e6:.2f} ms + {kernels} kernels x "
            f"({self.empty_ns / 1e3:.2f} us - {self.told_ns / 1e3:.2f} us in their times)",
        )


def beside_device(times: SessionTimes) -> Dispatch:
    """Return what a call takes beside what lies between CUDA events around its kernels.

    That is the host's work, both copies and the waiting; the gaps between kernels are not in it.
    """
    return Dispatch(
        times.beside_device_ns,
        f"what a call of {times.latency_ns / 1e6:.2f} ms takes beside its kernels, by CUDA events",
    )


def measure_line(
    engine: Engine,
    configuration: Configuration,
    running: Running,
    batch: Batch,
    outputs: Batch,
    inputs: Sequence[GraphInput],
    *,
    rounds: int,
    round_ms: float,
) -> Line:
    """Time both graphs in turn and return the line through them.

    Args:
        engine: That runs here and takes graphs.
        configuration: Of the model's session; what is not INT8 is taken.
        running: Of the model's session.
        batch: What the model is given.
        outputs: What it returns for that.
        inputs: Of the model's session, with its dynamic axes.
        rounds: As of :func:`time_interleaved_sessions`.
        round_ms: The same.

    Raises:
        RunError: If the engine refuses the graphs.
    """
    floats = Configuration("float", configuration.rest, configuration.mode)
    with tempfile.TemporaryDirectory(prefix="trueint8-") as scratch:
        paths = {}
        for count in (_FEW, _MANY):
            path = Path(scratch) / f"{count}.onnx"
            save_model(call_graph(inputs, outputs, count), path)
            paths[count] = (path, floats)
        timed = time_interleaved_sessions(
            engine, paths, running, batch, rounds=rounds, round_ms=round_ms
        )
    few, many = timed[_FEW], timed[_MANY]
    # by what was put in: of kernels below its clock's tick an engine may tell nothing
    added = _MANY - _FEW
    outside = (many.outside_ns - few.outside_ns) / added
    empty = (many.latency_ns - few.latency_ns) / added
    return Line(few.outside_ns - outside * _FEW, empty, empty - outside)


def call_graph(inputs: Sequence[GraphInput], outputs: Batch, length: int) -> ir.Model:
    """Return a graph of ``length`` dependent matmuls of 8 x 8 with a model's inputs and outputs.

    The rows of the matmuls are those of the first input, so they are dynamic where it is.
    """
    values = [_input(item) for item in inputs]
    graph = ir.Graph(values, [], nodes=[], opset_imports={"": _OPSET}, name="calls")
    first = _reduced(graph, values[0], keep_rows=True)
    for value in values[1:]:
        first = _append(graph, "Add", [first, _reduced(graph, value, keep_rows=False)])
    spread = add_initializer(graph, "spread", np.ones((1, _WIDTH), np.float32))
    last = _append(graph, "MatMul", [first, spread])
    draw = np.random.default_rng(0)
    for index in range(length):
        weight = draw.standard_normal((_WIDTH, _WIDTH)).astype(np.float32)
        last = _append(graph, "MatMul", [last, add_initializer(graph, f"w{index}", weight)])
    for name, array in outputs.items():
        graph.outputs.append(_given(graph, last, name, array))
    return ir.Model(graph, ir_version=10)


def _input(item: GraphInput) -> ir.Value:
    kind = ir.DataType.from_numpy(item.dtype)
    axes = [f"axis{i}" if d is None else d for i, d in enumerate(item.shape)]
    return ir.Value(name=item.name, shape=ir.Shape(axes), type=ir.TensorType(kind))


def _append(
    graph: ir.Graph, operator: str, inputs: Sequence[ir.Value], attributes: Mapping[str, int] = {}
) -> ir.Value:
    node = ir.node(operator, inputs, attributes, name=f"{operator}_{len(graph)}")
    node.outputs[0].name = f"value_{len(graph)}"
    graph.append(node)
    return node.outputs[0]


def _constant(graph: ir.Graph, numbers: Sequence[int]) -> ir.Value:
    array = np.array(numbers, np.int64)
    return add_initializer(graph, f"constant_{len(graph.initializers)}", array)


def _reduced(graph: ir.Graph, value: ir.Value, *, keep_rows: bool) -> ir.Value:
    """Return (rows, 1) or (1, 1) floats: the first element of an input, or of each of its rows."""
    axes = list(range(int(keep_rows), len(value.shape or ())))
    if axes:
        starts, ends = [0] * len(axes), [1] * len(axes)
        ranges = [_constant(graph, numbers) for numbers in (starts, ends, axes)]
        value = _append(graph, "Slice", [value, *ranges])
    number = _append(graph, "Cast", [value], {"to": int(ir.DataType.FLOAT)})
    return _append(graph, "Reshape", [number, _constant(graph, [-1, 1])])


def _given(graph: ir.Graph, value: ir.Value, name: str, array: np.ndarray) -> ir.Value:
    """Return an output of a shape and type that holds one element many times."""
    one = _append(graph, "Slice", [value, *(_constant(graph, n) for n in ([0, 0], [1, 1], [0, 1]))])
    flat = _append(graph, "Reshape", [one, _constant(graph, [1] * array.ndim)])
    kind = ir.DataType.from_numpy(array.dtype)
    typed = _append(graph, "Cast", [flat], {"to": int(kind)})
    output = _append(graph, "Expand", [typed, _constant(graph, array.shape)])
    output.name, output.type, output.shape = name, ir.TensorType(kind), ir.Shape(array.shape)
    return output
