"""NNCF, OpenVINO's own quantizer, on its ONNX backend.

As its documentation wants it for transformers: model type TRANSFORMER, which brings the mixed
preset (asymmetric activations, symmetric weights per output channel) and SmoothQuant; fast bias
correction; all the data. It also quantizes embedding tables and one or two operands of attention.

References:
    docs.openvino.ai, "Basic Quantization Flow"; github.com/openvinotoolkit/nncf
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import onnx

from calib.quantizer import Peer, PeerRequest, at_work, check_estimator, feeds, save_quantized
from trueint8.errors import MissingDependency

TITLE = "NNCF"
OWN = "it averages every batch's smallest and largest value"

_RANGES = {"minmax": "MINMAX", "mse": "HISTOGRAM"}
"""HISTOGRAM searches the range with the smallest squared error."""
ESTIMATORS = tuple(_RANGES)


def _library() -> Any:
    try:
        import nncf
    except ImportError as err:
        raise MissingDependency(
            "the quantizer nncf needs the package nncf, which is not installed",
            fix="pip install 'trueint8[nncf]'",
        ) from err
    return nncf


def version(python: Path | None = None) -> str:
    """Return NNCF's version."""
    del python
    return str(_library().__version__)


def quantize(request: PeerRequest) -> None:
    """Calibrate and write the Q/DQ graph; the ranges include padded positions."""
    check_estimator(TITLE, OWN, ESTIMATORS, request.estimator)
    nncf = _library()
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet as Ranges

    asked = request.estimator
    with (
        at_work(TITLE, request) as folder,
        request.progress.step("quantize with NNCF"),
    ):
        nncf.set_log_level(logging.ERROR)
        quantized = nncf.quantize(
            onnx.load(str(request.graph)),
            nncf.Dataset(feeds(request)),
            model_type=nncf.ModelType.TRANSFORMER,
            fast_bias_correction=True,
            subset_size=len(request.batches),
            ignored_scope=nncf.IgnoredScope(names=list(request.keep_float)),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=getattr(Ranges, _RANGES[asked])
            )
            if asked
            else None,
        )
        onnx.save(quantized, str(folder / "quantized.onnx"))
        save_quantized(folder / "quantized.onnx", request.out)


QUANTIZER = Peer(TITLE, ESTIMATORS, OWN, version, quantize)
