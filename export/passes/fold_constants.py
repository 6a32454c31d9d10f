"""f(c₁, c₂, …) = c: what depends on initializers only becomes an initializer.

Such as a block-diagonal matrix put together from small ones, or a scalar computed
from weight vectors, or a weight behind Transpose or Cast; engines then see a plain weight.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.optimizer import fold_constants

_NO_LIMIT = 1 << 40


class FoldConstants(ir.passes.InPlacePass):
    """See the module's docstring."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold, in place."""
        folded = fold_constants(
            model,
            input_size_limit=_NO_LIMIT,
            output_size_limit=_NO_LIMIT,
        )
        return ir.passes.PassResult(model, bool(folded.modified))
