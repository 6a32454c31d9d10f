"""What a quantizer is given, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calib.grouping import Grouping
from calib.placement import Extent, Mode, Placement, Rules, judge_attentions, place_qdq
from calib.ranges import DataEntry, Estimator, Ranges
from calib.smoothing import AUTO, Smoothing
from calib.weights import WeightScheme
from export.attentions import find_attentions, static_shapes
from export.matmuls import find_matmuls
from trueint8.errors import BuildError
from trueint8.progress import Progress

Batch = Mapping[str, np.ndarray]

DEFAULT_ESTIMATOR = "minmax"
"""Smoothing leaves activations without outliers, and then the whole range serves best."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a graph is to be quantized, whatever the data.

    Attributes:
        estimator: Of activations.
        weights: Estimator and granularity of weights.
        smoothing: What moves outliers into weights first, if anything.
        grouping: How channels of activations are split, if they are.
        keep_float: Shell patterns of matmuls that stay in float.
        int8_only: Shell patterns; if any is given, all other matmuls stay in float.
        quantize_head: Whether the language-model head is quantized too.
        attention: Whether attentions are quantized: ``auto`` where an engine fuses them.
    """

    estimator: Estimator
    weights: WeightScheme = WeightScheme(rounding="gptq")
    smoothing: Smoothing | None = Smoothing(AUTO, None)
    grouping: Grouping | None = None
    keep_float: tuple[str, ...] = ()
    int8_only: tuple[str, ...] = ()
    quantize_head: bool = False
    attention: Mode = "auto"


@dataclass(frozen=True, slots=True)
class Request:
    """One graph to be quantized on some data.

    Attributes:
        name: Of the model, for messages.
        graph: A clean float graph.
        modules_named: Whether its matmuls carry names of torch modules.
        batches: Calibration data, arrays named as the graph's inputs.
        entry: What the data are.
        settings: How to quantize.
        ranges: Statistics of ``graph`` from an earlier pass; a new pass is made without.
        scratch: A folder for files of its own.
        progress: Where progress is shown.
        timed: Takes the time of a named block.
        special: Rules of engines that may want another placement than the common graph's.
        longest: Most tokens an engine is built for, 0 where no input counts tokens.
    """

    name: str
    graph: Path
    modules_named: bool
    batches: Sequence[Batch]
    entry: DataEntry
    settings: Settings
    ranges: Ranges | None
    scratch: Path
    progress: Progress
    timed: Callable[[str], AbstractContextManager[None]]
    special: Mapping[str, Rules] = field(default_factory=dict)
    longest: int = 0

    def place(self, graph: ir.Model) -> Placement:
        """Decide which matmuls of a graph get Q/DQ in the common Q/DQ graph.

        Raises:
            BuildError: If none does.
        """
        return self._place(graph, Rules(), Extent({}, self.longest, static_shapes(graph)))

    def place_special(
        self, graph: ir.Model, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Placement]:
        """Decide the same for each of the special rules, by name.

        Args:
            graph: The float graph.
            shapes: Of every matmul's operands.
        """
        extent = Extent(shapes, self.longest, static_shapes(graph))
        return {name: self._place(graph, rules, extent) for name, rules in self.special.items()}

    def _place(self, graph: ir.Model, rules: Rules, extent: Extent) -> Placement:
        settings = self.settings
        placement = place_qdq(
            find_matmuls(graph, modules_named=self.modules_named),
            quantize_head=settings.quantize_head,
            keep_float=settings.keep_float,
            int8_only=settings.int8_only,
            attentions=judge_attentions(find_attentions(graph), rules, extent, settings.attention),
        )
        if not placement.quantized:
            raise BuildError(
                f"{self.name} has no matmul with weights to quantize",
                fix="check that the graph holds MatMul or Gemm nodes with constant weights",
            )
        return placement


@dataclass(frozen=True, slots=True)
class Prepared:
    """A float graph and all that Q/DQ need to know of it.

    Attributes:
        graph: The float graph that Q/DQ go into: the given one, or one of equal function.
        observed: The float graph that was observed: the same, or one whose activations leave out
            channels that are multiplied in float.
        placement: Decisions for its matmuls in the common Q/DQ graph.
        ranges: Statistics of the placed activations; None for a quantizer by others.
        shapes: Of every matmul's operands for one sequence.
        moved: Where the factors of each smoothed activation went.
        grouped: How the channels of each activation that was split were sorted.
        special: Decisions by name of the request's special rules.
    """

    graph: Path
    observed: Path
    placement: Placement
    ranges: Ranges | None
    shapes: Mapping[str, tuple[int, ...]]
    moved: Mapping[str, str] = field(default_factory=dict)
    grouped: Mapping[str, str] = field(default_factory=dict)
    special: Mapping[str, Placement] = field(default_factory=dict)

    @property
    def placements(self) -> list[Placement]:
        """All decisions, the common graph's first."""
        return [self.placement, *self.special.values()]

    def file_of(self, name: str, out: Path) -> Path:
        """Return the Q/DQ graph of special rules: ``out``, or ``model.int8.NAME.onnx`` beside it.

        The second where other tensors are quantized than in the common graph.
        """
        differs = self.special[name].attentions != self.placement.attentions
        return out.with_suffix(f".{name}{out.suffix}") if differs else out

    @property
    def statistics(self) -> Ranges:
        """The ranges, of a graph that our quantizer prepared."""
        assert self.ranges is not None
        return self.ranges
