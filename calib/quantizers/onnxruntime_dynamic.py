"""ONNX Runtime's dynamic quantizer: each activation's range is taken anew in every run.

Unsigned asymmetric activations, signed symmetric weights per output channel, matmuls with
weights only. It writes DynamicQuantizeLinear and MatMulInteger, no Q/DQ, and reads no data.

References:
    onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

from calib.quantizer import Peer, PeerRequest, at_work, check_estimator, save_quantized
from calib.quantizers.onnxruntime import library, prepared_graph, version
from export.onnx_file import EXTERNAL_ABOVE_BYTES, load_clean, weights_bytes

TITLE = "ONNX Runtime's dynamic quantizer"
OWN = "it takes ranges while the model runs"
ESTIMATORS: tuple[str, ...] = ()


def quantize(request: PeerRequest) -> None:
    """Write the graph; calibration data is not looked at."""
    check_estimator(TITLE, OWN, ESTIMATORS, request.estimator)
    library()
    from onnxruntime import quantization as ort

    with (
        at_work(TITLE, request) as folder,
        request.progress.step("quantize with ONNX Runtime, dynamically"),
    ):
        large = weights_bytes(load_clean(request.graph)) > EXTERNAL_ABOVE_BYTES
        ort.quantize_dynamic(
            str(prepared_graph(request.graph, folder, large=large)),
            str(folder / "quantized.onnx"),
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=list(request.keep_float),
            per_channel=True,
            reduce_range=False,
            weight_type=ort.QuantType.QInt8,
            use_external_data_format=large,
            extra_options={"MatMulConstBOnly": True, "WeightSymmetric": True},
        )
        save_quantized(folder / "quantized.onnx", request.out)


QUANTIZER = Peer(TITLE, ESTIMATORS, OWN, version, quantize)
