"""Graph passes, one file each; the docstring is the rewrite as an equation."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from export.passes.fold_constants import FoldConstants
from export.passes.name_matmuls import NameMatMuls
from export.passes.split_fused import SplitFused
from export.passes.split_gemm import SplitGemm


def clean(model: ir.Model) -> ir.Model:
    """Return the graph everything else works on: explicit matmuls with names, no metadata.

    Source paths and stack traces that exporters leave in the metadata go.
    """
    for rewrite in (
        common.InlinePass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        FoldConstants(),
        SplitGemm(),
        SplitFused(),
        NameMatMuls(),
        common.RemoveUnusedNodesPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        rewrite(model)
    return model
