"""An operator that an engine does not have: which, where, and which engine has it."""

from __future__ import annotations

import onnx.defs

from trueint8.errors import BuildError


def unsupported_operator(engine: str, operator: str, node: str, reason: str) -> BuildError:
    """Return the error for an operator that an engine refuses.

    ONNX Runtime has a kernel for every operator of the ONNX standard, so it is the nearest
    engine for those.

    Args:
        engine: The engine's name, as people write it.
        operator: Its type.
        node: The node's name, or "".
        reason: What the engine said.
    """
    where = f" (node {node})" if node else ""
    if onnx.defs.has(operator):
        fix = f"onnxruntime has {operator}: build with --engine onnxruntime"
    else:
        fix = f"{operator} is no ONNX operator: export the model with standard operators instead"
    return BuildError(
        f"operator {operator}{where} is not supported by {engine}:\n    {reason}", fix=fix
    )
