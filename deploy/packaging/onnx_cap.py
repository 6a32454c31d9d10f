"""Graphs in no later format than a release of Triton reads."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from deploy.packaging.releases import Release
from export.onnx_file import save_model
from trueint8.errors import BuildError


def write_capped(model: ir.Model, path: Path, release: Release) -> None:
    """Write a graph; the version of the file format is lowered, the opset is only checked.

    Raises:
        BuildError: If its operators are of a later set.
    """
    opset = model.opset_imports.get("", 0)
    if opset > release.opset:
        raise BuildError(
            f"the graph uses opset {opset}; Triton {release.name} has ONNX Runtime "
            f"{release.onnxruntime}, which reads {release.opset}",
            fix=f"export the model with opset {release.opset} or earlier, or pass a later --triton",
        )
    model.ir_version = min(model.ir_version or release.ir, release.ir)
    save_model(model, path)
