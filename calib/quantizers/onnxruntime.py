"""ONNX Runtime's static quantizer.

Unsigned asymmetric activations and signed symmetric weights per output channel, which its CPU
kernels multiply; matmuls with weights only, their outputs in float. All 8 bits of weights are
used. A percentile is of absolute values, as ours is, and applied to both sides.

References:
    onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calib.quantizer import Peer, PeerRequest, at_work, check_estimator, feeds, save_quantized
from export.matmuls import find_matmuls
from export.onnx_file import EXTERNAL_ABOVE_BYTES, load_clean, weights_bytes
from trueint8.errors import MissingDependency

TITLE = "ONNX Runtime"
OWN = "it takes ranges by minmax"

_METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
ESTIMATORS = tuple(_METHODS)


def library() -> Any:
    """Return the package.

    Raises:
        MissingDependency: If it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as err:
        raise MissingDependency(
            "the quantizer onnxruntime needs the package onnxruntime, which is not installed",
            fix="pip install 'trueint8[cpu]'",
        ) from err
    return onnxruntime


def version(python: Path | None = None) -> str:
    """Return ONNX Runtime's version."""
    del python
    return str(library().__version__)


def quantize(request: PeerRequest) -> None:
    """Calibrate and write the Q/DQ graph.

    The ranges include padded positions. Its graph optimizations stay off: the graph is clean,
    and they rename matmuls.
    """
    check_estimator(TITLE, OWN, ESTIMATORS, request.estimator)
    library()
    from onnxruntime import quantization as ort

    batches = feeds(request)
    with (
        at_work(TITLE, request) as folder,
        request.progress.step("quantize with ONNX Runtime", total=len(batches)) as advance,
    ):
        model = load_clean(request.graph)
        large = weights_bytes(model) > EXTERNAL_ABOVE_BYTES
        attention = [m.name for m in find_matmuls(model, modules_named=False) if m.weight is None]
        ort.quantize_static(
            str(prepared_graph(request.graph, folder, large=large)),
            str(folder / "quantized.onnx"),
            _reader(ort, batches, advance),
            quant_format=ort.QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=[*attention, *request.keep_float],
            per_channel=True,
            reduce_range=False,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
            use_external_data_format=large,
            calibrate_method=ort.CalibrationMethod[_METHODS[request.estimator or "minmax"]],
            extra_options={
                "ActivationSymmetric": False,
                "WeightSymmetric": True,
                "CalibPercentile": request.percentile,
                "CalibStridedMinMax": 1,  # batch by batch: lengths may differ, memory is bounded
                "OpTypesToExcludeOutputQuantization": ["MatMul"],
                "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
            },
        )
        save_quantized(folder / "quantized.onnx", request.out)


def prepared_graph(graph: Path, folder: Path, *, large: bool) -> Path:
    """Run ONNX Runtime's preparation, which infers shapes, and return the graph it wrote."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    quant_pre_process(
        str(graph),
        str(prepared),
        skip_optimization=True,
        skip_symbolic_shape=True,  # stops at slices of unknown length
        save_as_external_data=large,
    )
    return prepared


def _reader(
    ort: Any, batches: Sequence[Mapping[str, np.ndarray]], advance: Callable[[int], None]
) -> Any:
    """Return a reader that gives out the ranges of batches it is told to."""

    class Reader(ort.CalibrationDataReader):
        def __init__(self) -> None:
            self._left: Iterator[Mapping[str, np.ndarray]] = iter(())

        def __len__(self) -> int:
            return len(batches)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._left = iter(batches[start_index:end_index])

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            batch = next(self._left, None)
            advance(int(batch is not None))
            return batch

    return Reader()


QUANTIZER = Peer(TITLE, ESTIMATORS, OWN, version, quantize)
