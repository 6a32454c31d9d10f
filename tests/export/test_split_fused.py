"""SplitFused against the graph it rewrites, in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from export.initializers import add_initializer
from export.onnx_file import model_bytes
from export.passes.split_fused import SplitFused
from export.reference import open_reference

FLOAT = ir.TensorType(ir.DataType.FLOAT)
BATCH, TOKENS, WIDTH = 2, 3, 4


def fused(sizes: list[int], *, bias: bool, reshape: bool, axis: int = -1) -> ir.Model:
    draw = np.random.default_rng(0)
    x = ir.Value(name="x", shape=ir.Shape([BATCH * TOKENS, WIDTH]), type=FLOAT)
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="fused")

    def add(op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        node = ir.node(op, list(inputs), attributes=attributes)
        graph.append(node)
        return node.outputs[0]

    total = sum(sizes)
    weight = draw.standard_normal((WIDTH, total)).astype(np.float32)
    value = add("MatMul", x, add_initializer(graph, "w", weight))
    if bias:
        b = draw.standard_normal(total).astype(np.float32)
        value = add("Add", value, add_initializer(graph, "b", b))
    if reshape:
        shape = add_initializer(graph, "shape", np.array([BATCH, TOKENS, total]))
        value = add("Reshape", value, shape)
        value.shape = ir.Shape([BATCH, TOKENS, total])
    split = ir.node(
        "Split",
        [value, add_initializer(graph, "sizes", np.array(sizes))],
        attributes={"axis": axis},
        num_outputs=len(sizes),
    )
    graph.append(split)
    for index, output in enumerate(split.outputs):
        output.name, output.type = f"y{index}", FLOAT
        lead = [BATCH, TOKENS] if reshape else [BATCH * TOKENS]
        output.shape = ir.Shape([*lead, sizes[index]])
        graph.outputs.append(output)
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model) -> dict[str, np.ndarray]:
    x = np.random.default_rng(1).standard_normal((BATCH * TOKENS, WIDTH)).astype(np.float32)
    with open_reference(model_bytes(model)) as session:
        return session({"x": x})


@pytest.mark.parametrize("sizes", [[4, 4, 4], [8, 2, 2], [5, 7]])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reshape", [True, False])
def test_parts_equal_the_split(sizes: list[int], bias: bool, reshape: bool) -> None:
    expected = run(fused(sizes, bias=bias, reshape=reshape))
    model = fused(sizes, bias=bias, reshape=reshape)
    assert SplitFused()(model).modified
    operators = [node.op_type for node in model.graph]
    assert operators.count("MatMul") == len(sizes)
    assert "Split" not in operators
    actual = run(model)
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, atol=1e-6)


def test_a_split_on_another_axis_stays() -> None:
    model = fused([4, 4, 4], bias=True, reshape=True, axis=1)
    assert not SplitFused()(model).modified


def test_a_value_with_a_second_use_stays() -> None:
    model = fused([4, 4, 4], bias=False, reshape=False)
    matmul = next(node for node in model.graph if node.op_type == "MatMul")
    again = ir.node("Relu", [matmul.outputs[0]])
    model.graph.append(again)
    assert not SplitFused()(model).modified


def test_a_reshape_that_cuts_the_axis_stays() -> None:
    model = fused([2, 2, 2], bias=True, reshape=True)
    per_head = np.array([BATCH, 2 * TOKENS, 3])
    model.graph.initializers["shape"].const_value = ir.tensor(per_head, name="shape")
    assert not SplitFused()(model).modified
