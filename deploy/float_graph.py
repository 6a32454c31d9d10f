"""A checkpoint or an ONNX file to the clean float graph that calibration and build start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calib.data import Samples, check_tokens
from calib.inputs import GraphInput
from deploy import bundle as layout
from deploy.exporting import load_torch_model
from deploy.hardware import peak_mebibytes
from deploy.manifest import ParityEntry
from deploy.planning import CalibrationPlan
from export.matmuls import vocabulary_size
from export.onnx_file import load_as_written, load_clean, load_onnx_file, save_model
from export.parity import Parity, compare_outputs
from export.reference import open_reference
from trueint8.errors import ExportError
from trueint8.progress import Progress

_INPUT_TYPES = (ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


def write_float_graph(
    folder: Path, plan: CalibrationPlan, progress: Progress
) -> tuple[list[GraphInput], Samples, ParityEntry]:
    """Export a checkpoint, or clean an ONNX file, into ``folder``.

    Returns:
        The graph's inputs, the calibration data as batches of them, and how close the graph is
        to what it was made from.

    Raises:
        ExportError: If the model is refused, or the graph computes something else.
        DataError: If the data cannot be read.
    """
    out = folder / layout.FLOAT_GRAPH
    if plan.source.kind == "onnx":
        with progress.step("read ONNX"):
            save_model(load_onnx_file(plan.source.path), out)
        graph = load_clean(out)
        inputs = graph_inputs(graph)
        samples = plan.load_calibration(inputs)
        check_tokens(samples, vocabulary_size(graph, "input_ids"))
        with progress.step("compare with the original"):
            parity = _onnx_parity(plan.source.path, out, samples.batches[0])
        _say_parity(progress, parity, "the original graph")
        return inputs, samples, _parity_entry(parity)
    from export.torch_export import export_module

    with progress.step("load model"):
        model, inputs = load_torch_model(
            plan.source, plan.calib_data, allow_pickle=plan.allow_pickle
        )
    samples = plan.load_calibration(inputs)
    check_tokens(samples, (plan.source.config or {}).get("vocab_size"))
    with progress.step("export to ONNX"):
        parity = export_module(model, samples.batches[:1], out)
    progress.say(f"peak memory so far {peak_mebibytes():,.0f} MiB")
    _say_parity(progress, parity, "torch")
    return inputs, samples, _parity_entry(parity)


def _onnx_parity(original: Path, clean: Path, batch: Mapping[str, np.ndarray]) -> Parity:
    copy = clean.with_name("original.onnx")
    save_model(load_as_written(original), copy)
    with open_reference(copy) as run:
        expected = run(batch)
    copy.unlink()
    copy.with_name(f"{copy.name}.data").unlink(missing_ok=True)
    with open_reference(clean) as run:
        actual = run(batch)
    return compare_outputs(
        [(expected[name], actual[name]) for name in expected],
        [list(a.shape) for a in batch.values()][:1],
        "the original graph",
    )


def _say_parity(progress: Progress, parity: Parity, original: str) -> None:
    progress.say(
        f"parity with {original}: largest difference {parity.relative_error:.1e} of the largest "
        f"output (tolerance {parity.tolerance:.0e})"
    )


def _parity_entry(parity: Parity) -> ParityEntry:
    return ParityEntry(
        relative_error=parity.relative_error, tolerance=parity.tolerance, shapes=parity.shapes
    )


def graph_inputs(graph: ir.Model) -> list[GraphInput]:
    """Return the inputs of a graph with its fixed and dynamic axes."""
    found = []
    if not graph.graph.inputs:
        raise ExportError("the graph has no inputs", fix="export the model with its inputs")
    for value in graph.graph.inputs:
        if value.shape is None or value.dtype is None or not len(value.shape):
            raise ExportError(
                f"the graph's input {value.name!r} is a scalar, or has no shape or type",
                fix="export the model with a batch axis on every input",
            )
        if value.dtype not in _INPUT_TYPES:
            raise ExportError(
                f"the graph's input {value.name!r} is {value.dtype}",
                fix="export the model with inputs in float32, int64, int32 or bool",
            )
        shape = tuple(d if isinstance(d, int) else None for d in value.shape)
        found.append(GraphInput(str(value.name), np.dtype(value.dtype.numpy()), shape))
    return found
