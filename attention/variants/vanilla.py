"""Softmax attention: softmax(QKᵀ/√D)·V.

Rows of the weights sum to 1, so a head that has nothing to add must still
attend somewhere.

References:
    Vaswani et al. 2017, arXiv:1706.03762, equation 1.
"""

from __future__ import annotations

from attention.variant import Variant

VARIANT = Variant
