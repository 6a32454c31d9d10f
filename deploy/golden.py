"""Golden inputs with float and simulated outputs, for anyone who later checks an engine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from calib.collector import unpadded
from calib.inputs import GraphInput
from deploy.drawn_inputs import draw_shaped
from deploy.engine_graphs import simulated_outputs
from deploy.sessions import Precision
from deploy.tolerance import sqnr_db
from export.matmuls import vocabulary_size
from export.onnx_file import load_clean, save_model
from export.parity import compare_outputs
from export.passes.round_rest import RoundRest
from export.passes.simulate import Simulate
from export.reference import open_reference
from trueint8.artifacts import storage_errors
from trueint8.errors import CalibrationError, IntegrityError

Arrays = Mapping[str, np.ndarray]

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]

COUNT = 4
"""Golden sequences in a bundle whose outputs have an axis of tokens."""

POOLED_COUNT = 16
"""The same where each sequence gives one row: four would be too few numbers to compare."""

Rests = Mapping[Path, Iterable[Precision]]
"""Per Q/DQ graph: the precisions that engines run its rest in."""


@dataclass(frozen=True, slots=True)
class Golden:
    """What a bundle keeps for checking engines.

    Attributes:
        inputs: By name.
        floats: Outputs of the float graph in FP32, by name.
        simulated: Outputs of each Q/DQ graph in float arithmetic, by file name and name.
        repeats: SIMULATED, in dB: how near a second simulation came to the first, by file name,
            precision of the rest, and output.
    """

    inputs: Arrays
    floats: Arrays
    simulated: Mapping[str, Arrays]
    repeats: Mapping[tuple[str, str, str], float]


def golden_count(graph: ir.Model) -> int:
    """Return how many golden sequences a bundle of this float graph holds."""
    ranks = [len(o.shape) for o in graph.graph.outputs if o.shape is not None]
    return POOLED_COUNT if ranks and max(ranks) <= 2 else COUNT


def draw_inputs(
    graph: ir.Model, inputs: Sequence[GraphInput], like: Mapping[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """Draw inputs as :func:`draw_shaped` does, as many as a bundle holds.

    Args:
        graph: The float graph, which knows the vocabulary.
        inputs: What to draw.
        like: One calibration batch, for the lengths of dynamic axes only.
        seed: Makes the draw repeatable.
    """
    shapes, count = {}, golden_count(graph)
    for item in inputs:
        first = item.shape[0] if item.shape and item.shape[0] is not None else count
        shapes[item.name] = (first, *like[item.name].shape[1:])
    rows = {i.name: vocabulary_size(graph, i.name) for i in inputs}
    return draw_shaped(inputs, shapes, rows, seed)


def golden_error(run: Run, golden: Path) -> float:
    """Return the largest difference of ``run`` to the golden outputs, relative to the largest."""
    stored = read_golden(golden)
    outputs = run(stored.inputs)
    pairs = [(v, outputs[k]) for k, v in stored.floats.items()]
    return compare_outputs(pairs, [], "the float graph", tolerance=np.inf).relative_error


def write_golden(out: Path, float_graph: Path, graphs: Rests, inputs: Arrays) -> None:
    """Run the graphs and store inputs, outputs, and how repeatable the simulations are.

    The names are ``input.X``, ``output.X``, ``simulated.GRAPH.X`` and ``repeat.GRAPH.PRECISION.X``.

    Raises:
        CalibrationError: If the float graph gives NaN or infinite values.
    """
    with open_reference(float_graph) as run:
        outputs = run(inputs)
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise CalibrationError(
                f"the float model itself gives NaN or infinite values in {name!r}",
                fix="check the checkpoint's weights; quantization comes after that",
            )
    tensors = {f"input.{k}": v for k, v in inputs.items()}
    tensors |= {f"output.{k}": np.ascontiguousarray(v) for k, v in outputs.items()}
    for graph, rests in graphs.items():
        first = simulated_outputs(graph, inputs)
        tensors |= {
            f"simulated.{graph.name}.{k}": np.ascontiguousarray(v) for k, v in first.items()
        }
        for rest in rests:
            for name, found in repeated(graph, rest, inputs, first).items():
                tensors[f"repeat.{graph.name}.{rest}.{name}"] = np.array([found], np.float32)
    with storage_errors(out):
        out.write_bytes(save(tensors))


def repeated(graph: Path, rest: Precision, inputs: Arrays, first: Arrays) -> dict[str, float]:
    """Simulate a Q/DQ graph again, in another order of operations and with its rest rounded.

    Args:
        graph: The Q/DQ graph.
        rest: Precision of what surrounds its matmuls.
        inputs: As of the first simulation.
        first: Its outputs.

    Returns:
        By output, the SQNR of the second simulation to the first in dB; padded positions
        do not count.
    """
    model = load_clean(graph)
    if rest != "fp32":
        RoundRest(rest)(model)
    Simulate()(model)
    with tempfile.TemporaryDirectory(dir=graph.parent) as scratch:
        path = Path(scratch) / graph.name
        save_model(model, path)
        with open_reference(path, optimized=False) as run:
            again = run(inputs)
    mask = inputs.get("attention_mask")
    return {n: sqnr_db(unpadded(v, mask), unpadded(again[n], mask)) for n, v in first.items()}


def read_golden(path: Path) -> Golden:
    """Read what :func:`write_golden` wrote.

    Raises:
        IntegrityError: If it holds no simulated outputs: it is of another version.
    """
    parts: dict[str, dict[str, np.ndarray]] = {}
    simulated: dict[str, dict[str, np.ndarray]] = {}
    repeats = {}
    try:
        stored = load_file(path)
    except (SafetensorError, OSError, TypeError, AttributeError) as err:
        raise IntegrityError(
            f"{path} is not a whole safetensors file: {err}", fix="build the bundle again"
        ) from err
    for key, values in stored.items():
        kind, _, name = key.partition(".")
        graph, _, rest = name.partition(".onnx.")
        if kind == "simulated":
            simulated.setdefault(f"{graph}.onnx", {})[rest] = values
        elif kind == "repeat":
            precision, _, output = rest.partition(".")
            repeats[f"{graph}.onnx", precision, output] = float(values.sum())
        else:
            parts.setdefault(kind, {})[name] = values
    if not simulated or not repeats or not {"input", "output"} <= set(parts):
        raise IntegrityError(
            f"{path} holds no simulated outputs to compare engines with",
            fix="build the bundle again with this version",
        )
    return Golden(parts["input"], parts["output"], simulated, repeats)
