"""One file per quantizer, ours or a peer's: float ONNX in, Q/DQ ONNX out."""

from __future__ import annotations

from trueint8.registry import Registry

QUANTIZERS = Registry("quantizer", "calib.quantizers", "QUANTIZER")
