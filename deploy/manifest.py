"""What a bundle says about itself: a versioned JSON with every file's hash."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict
from math import prod
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter

from calib.inputs import GraphInput
from deploy.engine_options import EngineOptions
from deploy.record import Record
from export.source import Task

SCHEMA: Literal["trueint8/bundle/1"] = "trueint8/bundle/1"


_ENGINE_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_DTYPES = {np.dtype(code).name for code in "?bBhHiIlLefd"}


_MOST_VALUES = 1 << 32
"""In one input; no batch comes near it."""


class _Options(EngineOptions):
    """As bundles hold them: those that are no default."""

    __pydantic_config__ = ConfigDict(extra="forbid")


_OPTIONS = TypeAdapter(_Options)


def _is_inside(name: str) -> bool:
    """Say whether a name is one of a file below a folder, in its only spelling."""
    path = PurePosixPath(name)
    plain = name.isprintable() and "\\" not in name and str(path) == name
    return plain and not path.is_absolute() and not {"..", ".", ""} & set(name.split("/"))


class FileEntry(Record):
    """One file of the bundle."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class InputEntry(Record):
    """One input of the graph; null marks a dynamic axis."""

    name: str
    dtype: str
    shape: list[int | None]


class ModelEntry(Record):
    """What was deployed."""

    name: str
    kind: Literal["checkpoint", "onnx", "module"]
    task: Task
    attention: str
    sha256: str
    label_ids: dict[str, int] | None
    max_positions: int | None


class ParityEntry(Record):
    """Largest difference of the float graph to its original, relative to the largest output."""

    relative_error: float
    tolerance: float
    shapes: list[list[int]]


class CalibrationEntry(Record):
    """How ranges were found."""

    quantizer: str = "trueint8"
    estimator: str
    percentile: float | None
    data: str
    data_sha256: str
    samples: int
    batch_size: int
    sequence: int
    fingerprints: list[str] = Field(
        default=[],
        description="Hashes of lines of the text, or of rows of arrays, the 512 smallest: tells "
        "whether other data share pieces with these. Empty where they are not known.",
    )


class MatMulEntry(Record):
    """One matmul, Conv or Gemm of the float graph; ``reason``: why it is not quantized."""

    name: str
    weighted: bool
    macs: int = Field(
        description="Multiply-accumulates of one calibration sequence, or of one batch where "
        "the graph fixes it."
    )
    returns: str = Field(description="The graph output it gives, or empty.")
    reason: str


class EngineEntry(Record):
    """One engine in the bundle."""

    version: str
    runs_here: bool = Field(description="False: BUILT for hardware that is not here.")
    rest: Literal["fp32", "bf16", "fp16"] = Field(description="Precision of what is not INT8.")
    options: dict[str, Any] = Field(
        default={}, description="What it was asked for beside the graph, where not the default."
    )
    graph: str = Field(default="model.int8.onnx", description="The Q/DQ graph it was built from.")
    reasons: dict[str, str] | None = Field(
        default=None,
        description="Why matmuls are not quantized in that graph, empty where they are; null "
        "where `matmuls` says it.",
    )
    int8: bool = Field(default=True, description="False: it runs the float model.")
    int8_matmuls: int
    cosine: float | None = Field(
        description="MEASURED: of all outputs on the first calibration batch to the float graph's; "
        "null for an engine that was not run."
    )
    simulated_cosine: float | None = Field(
        default=None,
        description="SIMULATED: the same of its Q/DQ graph in float arithmetic, for an engine that "
        "was not run.",
    )


def _check_engine(name: str, engine: EngineEntry, files: Collection[str]) -> None:
    if not _ENGINE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of an engine")
    if engine.graph not in files:
        raise ValueError(f"{name} was built from {engine.graph!r}, which is not listed")
    read = _OPTIONS.validate_python(engine.options)
    if asdict(read) != asdict(EngineOptions.from_plain(engine.options)):
        raise ValueError(f"an option of {name} has a value of another type")


def _check_inputs(inputs: list[InputEntry], shapes: Mapping[str, list[list[int]]]) -> None:
    if {item.name for item in inputs} != set(shapes):
        raise ValueError("not every input has its shapes")
    for item in inputs:
        if item.dtype not in _DTYPES or any(n is not None and n < 0 for n in item.shape):
            raise ValueError(f"the input {item.name!r} has no dtype and shape of an array")
        of = shapes[item.name]
        whole = len(of) == 3 and {len(shape) for shape in of} == {len(item.shape)}
        if not whole or any(n < 0 for s in of for n in s) or max(map(prod, of)) >= _MOST_VALUES:
            raise ValueError(f"{item.name!r} has not a smallest, a usual and a largest shape")


def _check_hardware(hardware: Mapping[str, Any]) -> None:
    """Refuse other types in what is compared with the machine that loads the bundle."""
    for key in ("cpu_features", "compute_capability"):
        found = hardware.get(key, [])
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise ValueError(f"{key} is no list of texts")
    for key in ("system", "machine", "driver"):
        if not isinstance(hardware.get(key), str | None):
            raise ValueError(f"{key} is no text")


class Interval(Record):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


class CandidateEntry(Record):
    """One placement, MEASURED on the engine of the search."""

    kept: list[str] = Field(description="Matmuls in float.")
    value: float = Field(description="The metric.")
    drop: Interval = Field(description="Against the float graph in FP32, over sequences.")
    latency_ms: Interval = Field(description="Of one batch.")
    float_ratio: Interval = Field(
        description="Latency of the engine's fastest float precision ÷ this one's, timed in the "
        "same interleaved rounds."
    )
    on_front: bool = Field(description="No other candidate loses less and is faster.")


class SearchEntry(Record):
    """What was tried to hold a drop, and what was taken."""

    target_drop: float
    held: bool = Field(description="Whether the candidate taken holds the target.")
    ended: Literal["complete", "time budget"]
    seconds: float
    engine: str
    metric: Literal["perplexity", "accuracy", "cosine"]
    drop_unit: Literal["%", "points"] = Field(description="%: of perplexity.")
    data: str
    sequences: int
    float_value: float = Field(description="MEASURED, FP32.")
    fastest_float: str = Field(description="Precision that latencies are compared with.")
    kept: list[str] = Field(description="Of the candidate taken.")
    candidates: list[CandidateEntry]


class Manifest(Record):
    """Everything needed to trust, load and reproduce a bundle."""

    schema_: Literal["trueint8/bundle/1"] = Field(default=SCHEMA, alias="schema")
    created: str = Field(description="UTC, ISO 8601.")
    command: str = Field(
        default="deploy build",
        description="What built it, as typed, with names in place of paths and without -o.",
    )
    request: dict[str, Any] = Field(description="What decides the content; equal means up to date.")
    model: ModelEntry
    inputs: list[InputEntry]
    shapes: dict[str, list[list[int]]] = Field(
        description="Of each input: the smallest, most usual and largest that engines accept."
    )
    parity: ParityEntry
    calibration: CalibrationEntry
    matmuls: list[MatMulEntry]
    smoothed: dict[str, str] = Field(
        default={},
        description="Activations that were smoothed, and where their factors went: norm, value "
        "or explicit.",
    )
    grouped: dict[str, str] = Field(
        default={},
        description="Activations whose channels were split, and how these were sorted before: "
        "columns (of the weights around), residual (all tensors joined by it), gather (at run "
        "time) or unsorted (one group).",
    )
    warnings: list[str] = Field(
        default=[], description="What was said about the model when it was built."
    )
    search: SearchEntry | None = Field(
        default=None, description="How the matmuls in float were chosen, if by --target-drop."
    )
    uncounted: dict[str, int] = Field(
        description="Operators whose multiply-accumulates are not known; with any, INT8 MAC "
        "coverage is unknown."
    )
    engines: dict[str, EngineEntry]
    golden: str = Field(description="Where the golden inputs come from.")
    seed: int
    versions: dict[str, str]
    hardware: dict[str, Any]
    steps_s: dict[str, float] = Field(description="Seconds each step took.")
    files: dict[str, FileEntry]

    def check(self) -> None:
        """Refuse what names files outside the bundle, or what later steps could not read.

        Raises:
            ValueError: With what is wrong.
        """
        for name in self.files:
            if not _is_inside(name):
                raise ValueError(f"{name!r} is no name of a file inside a bundle")
        for name, engine in self.engines.items():
            _check_engine(name, engine, self.files)
        _check_inputs(self.inputs, self.shapes)
        _check_hardware(self.hardware)
        try:
            str(self.calibration_label)
        except (KeyError, TypeError, AttributeError) as err:
            raise ValueError("the request does not say how ranges were found") from err

    def graph_inputs(self) -> list[GraphInput]:
        """Return the inputs as the data loader wants them."""
        return [GraphInput(i.name, np.dtype(i.dtype), tuple(i.shape)) for i in self.inputs]

    def matmuls_of(self, engine: str) -> list[MatMulEntry]:
        """Return all matmuls with the decisions of the graph that an engine was built from."""
        reasons = self.engines[engine].reasons or {}
        return [
            m.model_copy(update={"reason": reasons.get(m.name, m.reason)}) for m in self.matmuls
        ]

    @property
    def calibration_label(self) -> str:
        """Such as ``percentile 99.99``, or ``minmax, shift-scale 0.9, 4 groups``."""
        entry, smooth = self.calibration, self.request.get("smooth")
        grouping = self.request.get("grouping") or {"groups": 1, "float_channels": 0}
        label = entry.estimator + (f" {entry.percentile:g}" if entry.percentile is not None else "")
        if entry.quantizer != "trueint8":
            return f"{entry.quantizer}, {label}"
        if smooth:
            strength = f" {smooth['alpha']:g}" if smooth["alpha"] is not None else ""
            label += f", {smooth['method']}{strength}"
        label += f", {grouping['groups']} groups" if grouping["groups"] > 1 else ""
        outliers = grouping["float_channels"]
        return label + (f", {outliers} float channels" if outliers else "")
