"""Gemm(A, B, C; α, β, transA, transB) = MatMul(op(A), α·op(B)) + β·C, for constant B."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.initializers import add_initializer


class SplitGemm(ir.passes.InPlacePass):
    """Write every Gemm with constant weights as MatMul and Add, so that one rule quantizes all."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite all such nodes of the main graph."""
        gemms = [n for n in model.graph if n.op_type == "Gemm" and _has_constant_weight(n)]
        for gemm in gemms:
            _split(model.graph, gemm)
        return ir.passes.PassResult(model, modified=bool(gemms))


def _has_constant_weight(node: ir.Node) -> bool:
    weight = node.inputs[1]
    return weight is not None and weight.const_value is not None


def _split(graph: ir.Graph, gemm: ir.Node) -> None:
    a, b = gemm.inputs[0], gemm.inputs[1]
    assert a is not None and b is not None
    trans_a, trans_b = _attribute(gemm, "transA", 0), _attribute(gemm, "transB", 0)
    alpha, beta = _attribute(gemm, "alpha", 1.0), _attribute(gemm, "beta", 1.0)
    nodes = []
    if trans_a:
        nodes.append(ir.node("Transpose", [a], attributes={"perm": [1, 0]}))
        a = nodes[-1].outputs[0]
    weight = b
    if trans_b or alpha != 1.0:
        assert b.const_value is not None
        array = b.const_value.numpy()
        weight = _derived(graph, b, np.float32(alpha) * (array.T if trans_b else array))
    matmul = ir.node("MatMul", [a, weight], name=gemm.name)
    matmul.metadata_props.update(gemm.metadata_props)
    nodes.append(matmul)
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    if bias is not None:
        if beta != 1.0:
            factor = add_initializer(
                graph, f"{gemm.outputs[0].name}_beta", np.array(beta, np.float32)
            )
            nodes.append(ir.node("Mul", [bias, factor]))
            bias = nodes[-1].outputs[0]
        nodes.append(ir.node("Add", [matmul.outputs[0], bias]))
    result, old = nodes[-1].outputs[0], gemm.outputs[0]
    result.shape, result.type, result.name = old.shape, old.type, old.name
    graph.insert_before(gemm, nodes)
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove(gemm, safe=True)


def _attribute(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def _derived(graph: ir.Graph, like: ir.Value, array: np.ndarray) -> ir.Value:
    name = f"{like.name}_for_matmul"
    while name in graph.initializers:
        name += "_"
    assert like.const_value is not None
    return add_initializer(graph, name, array.astype(like.const_value.numpy().dtype))
