"""The float reference: ONNX Runtime on the CPU, FP32 arithmetic."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from export.onnx_file import split_weights
from trueint8.errors import ExportError, MissingDependency, RunError


class Run(Protocol):
    """Inference of an open graph."""

    def __call__(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Return outputs by name, all unless told which.

        Raises:
            RunError: If inference fails.
        """


@contextlib.contextmanager
def open_reference(
    model: Path | bytes | ir.Model, *, threads: int = 0, optimized: bool = True
) -> Iterator[Run]:
    """Open a graph for FP32 inference and yield ``run(inputs) -> outputs``.

    Args:
        model: An ``.onnx`` file, its bytes, or a graph, whose weights are used where they are.
        threads: Intra-op threads; 0 lets the runtime choose.
        optimized: Whether the runtime may fuse and reorder; without, it runs node after node.

    Raises:
        MissingDependency: If ONNX Runtime is not installed.
        ExportError: If the runtime refuses the graph.
    """
    try:
        import onnxruntime as ort
    except ImportError as err:
        raise MissingDependency(
            "ONNX Runtime is not installed; calibration and parity need it",
            fix="pip install 'trueint8[cpu]'",
        ) from err
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # its threads would otherwise spin on, beside whoever works on the outputs
    options.add_session_config_entry("session.force_spinning_stop", "1")
    weights: dict[str, Any] = {}
    if isinstance(model, ir.Model):
        model, arrays = split_weights(model)
        weights = {name: ort.OrtValue.ortvalue_from_numpy(a) for name, a in arrays.items()}
        options.add_external_initializers(list(weights), list(weights.values()))
    try:
        session = ort.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            options,
            providers=["CPUExecutionProvider"],
        )
    except Exception as err:  # ONNX Runtime's exception classes share no public base
        raise ExportError(
            f"ONNX Runtime cannot load the graph: {str(err).splitlines()[0]}",
            fix="check the model with onnx.checker.check_model(path, full_check=True)",
        ) from err
    every = [o.name for o in session.get_outputs()]
    wanted = {i.name for i in session.get_inputs()}

    def run(
        inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        names = every if outputs is None else list(outputs)
        feeds = {k: v for k, v in inputs.items() if k in wanted}
        try:
            # its own memory, where run() would copy every output
            values = session.run_with_ort_values(
                names, {k: ort.OrtValue.ortvalue_from_numpy(v) for k, v in feeds.items()}
            )
        except Exception as err:  # as above
            raise RunError(
                f"the float graph cannot run on this data: {str(err).splitlines()[0]}",
                fix="check shapes, dtypes and token ids of the data against the model's inputs",
            ) from err
        return {name: value.numpy() for name, value in zip(names, values, strict=True)}

    yield run
