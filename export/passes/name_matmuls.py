"""Y = MatMul(A, B) + c, renamed after the module that computes it; nothing else changes."""

from __future__ import annotations

import ast

import onnx_ir as ir

from export.matmuls import weight_initializer

_SCOPES = "pkg.torch.onnx.name_scopes"
_WRAPPER = "model."
_EPILOGUES = ("Add", "Mul", "Div")


class NameMatMuls(ir.passes.InPlacePass):
    """Give every MatMul a unique name people recognise, and its folded weight one to match.

    A linear layer exported from torch is called after its module,
    ``bert.encoder.layer.0.output.dense``; other nodes keep the names they have.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename in the main graph."""
        taken = {n.name for n in model.graph if n.op_type != "MatMul"}
        for index, node in enumerate(n for n in model.graph if n.op_type == "MatMul"):
            base = _module_name(node) or node.name or f"MatMul_{index}"
            name, count = base, 0
            while name in taken:
                count += 1
                name = f"{base}.{count}"
            taken.add(name)
            node.name = name
            _name_weight(model.graph, node)
            _name_epilogue(node)
        return ir.passes.PassResult(model, modified=True)


def _module_name(node: ir.Node) -> str | None:
    scopes = node.metadata_props.get(_SCOPES)
    if scopes is None:
        return None
    try:
        parts = ast.literal_eval(scopes)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    texts = isinstance(parts, list) and all(isinstance(part, str) for part in parts)
    if not texts or len(parts) < 2 or not parts[-2]:
        return None
    module = parts[-2].removeprefix(_WRAPPER)
    has_weight = any(v is not None and weight_initializer(v) is not None for v in node.inputs)
    return module if has_weight else f"{module}/{parts[-1]}"


def _name_epilogue(node: ir.Node) -> None:
    """Call the bias or scale that follows ``name/add`` or ``name/mul``.

    Engines that fuse it into the matmul often keep only the later name.
    """
    uses = list(node.outputs[0].uses())
    if len(uses) == 1 and uses[0][0].op_type in _EPILOGUES:
        follower = uses[0][0]
        follower.name = f"{node.name}/{follower.op_type.lower()}"


def _name_weight(graph: ir.Graph, node: ir.Node) -> None:
    for value in node.inputs:
        if value is None or value.const_value is None or value.name is None:
            continue
        wanted = f"{node.name}.weight"
        if len(value.uses()) > 1 or wanted in graph.initializers:
            continue
        if value.name.startswith("val_") or value.name.endswith("_for_matmul"):
            value.name = wanted
            value.const_value.name = wanted
