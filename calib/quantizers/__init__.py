"""One file per quantizer; each defines ``quantize(request, out) -> Prepared``."""

from __future__ import annotations

from trueint8.registry import Registry

QUANTIZERS = Registry("quantizer", "calib.quantizers", "quantize")
