"""Float graph to Q/DQ graph, by the quantizer that was asked for."""

from __future__ import annotations

from pathlib import Path

from calib.collector import operand_shapes
from calib.placement import Placement, Site
from calib.quantization import Prepared, Request
from calib.quantizer import PeerRequest, placed_matmuls
from calib.quantizers import trueint8
from deploy.planning import BuildPlan
from export.matmuls import find_matmuls
from export.onnx_file import load_clean
from trueint8.errors import BuildError


def quantize(plan: BuildPlan, request: Request, out: Path) -> Prepared:
    """Write the Q/DQ graph.

    Raises:
        BuildError: If nothing is quantized, or a peer refuses the graph.
        CalibrationError: If an activation is NaN or infinite.
        ConfigError: If the peer has no such estimator.
    """
    chosen = plan.quantizer
    if chosen is None:
        return trueint8.quantize(request, out)
    peer = chosen.peer
    graph = load_clean(request.graph)
    matmuls = find_matmuls(graph, modules_named=request.modules_named)
    kept = [s.matmul.name for s in request.place(graph).sites if not s.quantized]
    asked = PeerRequest(
        graph=request.graph,
        batches=request.batches,
        out=out,
        scratch=request.scratch,
        estimator=chosen.estimator,
        percentile=chosen.percentile,
        keep_float=[m.name for m in matmuls if m.weight is not None and m.name in kept],
        progress=request.progress,
        python=chosen.python,
    )
    with request.timed("quantize"):
        peer.quantize(asked)
    reasons = placed_matmuls(load_clean(out), peer.title)
    lost = f"no longer a matmul in the graph of {peer.title}"
    placement = Placement([Site(m, reasons.get(m.name, lost)) for m in matmuls])
    if not placement.quantized:
        raise BuildError(
            f"{peer.title} quantized no matmul of {request.name}",
            fix="--quantizer trueint8 says of every matmul why",
        )
    shapes = operand_shapes(graph, request.batches[0])
    return Prepared(request.graph, placement, None, shapes, {})
