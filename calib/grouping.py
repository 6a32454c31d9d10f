"""Split a matmul's channels into groups with a scale each, and the widest of all into float.

    X·W = Σ_g X[:, I_g]·W[I_g, :]  +  X[:, F]·W[F, :]

Channels are sorted by their calibrated range, maximum − minimum. The N widest, F, are multiplied in
float; the others are cut into K groups I_g of equal size, sizes differing by one at most, and each
is quantized with a scale of its own: K INT8 matmuls, summed before the bias.

Channels are sorted beforehand, in the weights around, wherever the graph allows
(:mod:`export.channels`). Tensors joined by a residual share one order: that of each channel's
largest range in any of them, relative to the mean range of that tensor. Where a tensor comes from
elsewhere, attention's output for one, a Gather sorts it at run time.

References:
    Groups and their permutation: Bondarenko et al. 2021, arXiv:2109.12948, section 4 (there
    simulated, and K divides the channels). Outlier channels in float beside INT8: Dettmers et al.
    2022, arXiv:2208.07339 (there chosen at run time, by magnitude).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from calib.readers import Readers, find_readers
from calib.stats import TensorStats
from export.channels import ChannelSpace, channel_space, last_length
from export.initializers import (
    add_initializer,
    array_of,
    fresh_name,
    remove_unused_initializers,
)
from export.matmuls import MatMul
from export.passes.permute_channels import PermuteChannels
from trueint8.errors import ConfigError

OUTLIER_REASON = "its outlier channels, kept in float by --float-channels"


@dataclass(frozen=True, slots=True)
class Grouping:
    """How the channels of quantized activations are split.

    Attributes:
        groups: K >= 1, groups with a scale each.
        float_channels: N >= 0, the channels of widest range that stay in float.

    Raises:
        ConfigError: If one is out of range.
    """

    groups: int = 1
    float_channels: int = 0

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ConfigError(
                f"groups={self.groups} is out of range; expected 1 or more", fix="pass --groups 4"
            )
        if self.float_channels < 0:
            raise ConfigError(
                f"float-channels={self.float_channels} is out of range; expected 0 or more",
                fix="pass --float-channels 8",
            )

    def sizes(self, width: int, tensor: str) -> list[int]:
        """Return how many channels of C each group gets, then those in float if there are any.

        Args:
            width: C.
            tensor: For the message.

        Raises:
            ConfigError: If there are too few.
        """
        rest = width - self.float_channels
        if rest < self.groups:
            asked = f"{self.groups} groups" if self.groups > 1 else "an INT8 part"
            beside = f" beside {self.float_channels} in float" if self.float_channels else ""
            raise ConfigError(
                f"{tensor!r} has {width} channels, too few for {asked}{beside}",
                fix="pass fewer, or keep the matmuls that read it in float with --keep-float",
            )
        parts = [rest // self.groups + (i < rest % self.groups) for i in range(self.groups)]
        return [*parts, self.float_channels] if self.float_channels else parts


@dataclass(frozen=True, slots=True)
class Grouped:
    """What became of a graph.

    Attributes:
        moved: How the channels of each activation were sorted, by its name before: ``columns`` in
            the weights that make it, ``residual`` in those of all tensors joined with it, or
            ``gather`` at run time. Activations that were left alone are absent.
        reasons: By the name of each new matmul: why it is not quantized, empty if it is.
    """

    moved: dict[str, str]
    reasons: dict[str, str]


def group_channels(
    model: ir.Model,
    matmuls: Sequence[MatMul],
    stats: Mapping[str, TensorStats],
    how: Grouping,
) -> Grouped:
    """Split matmuls into parts, in place.

    The parts of ``fc`` are ``fc/group0`` to ``fc/group<K-1>``, from the narrowest channels to the
    widest, and ``fc/outliers``.

    Args:
        model: A clean graph; changed.
        matmuls: Those to be quantized, of this graph.
        stats: Statistics of their activations, with extremes per channel.
        how: How many groups, and how many channels in float.

    Raises:
        ConfigError: If an activation has too few channels.
    """
    common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    found = find_readers(model.graph, matmuls)
    moved: dict[str, str] = {}
    sources: list[ir.Value] = []
    readers: list[Readers] = []
    for space, members in _spaces(model.graph, found, stats):
        sorting = PermuteChannels(space, _order([stats[str(m.value.name)] for m in members]))
        sorting(model)
        shared = "residual" if len(members) > 1 else "columns"
        for member in members:
            moved[str(member.value.name)] = "gather" if member.value in sorting.gathered else shared
            sources.append(sorting.gathered.get(member.value, member.value))
        readers += members
    reasons = _Parts(model.graph, how).put(zip(readers, sources, strict=True))
    remove_unused_initializers(model.graph)
    return Grouped(moved, reasons)


def _spaces(
    graph: ir.Graph, found: Sequence[Readers], stats: Mapping[str, TensorStats]
) -> Iterator[tuple[ChannelSpace, list[Readers]]]:
    """Return every space that holds activations to split, with those."""
    left = [r for r in found if _sortable(r.value, stats)]
    while left:
        space = channel_space(graph, left[0].value)
        inside = [r for r in left if r.value in space.activations]
        left = [r for r in left if r.value not in space.activations]
        yield space, inside


def _sortable(value: ir.Value, stats: Mapping[str, TensorStats]) -> bool:
    low = stats[str(value.name)].channel_minimum
    return low is not None and len(low) == last_length(value)


def _order(stats: Sequence[TensorStats]) -> np.ndarray:
    """Return the channels (C,) from the narrowest to the widest."""
    relative = []
    for of in stats:
        assert of.channel_minimum is not None and of.channel_maximum is not None
        reach = of.channel_maximum.astype(np.float64) - of.channel_minimum
        relative.append(reach / (reach.mean() or 1.0))
    return np.argsort(np.max(relative, axis=0), kind="stable")


class _Parts:
    """Puts parts and their sum in the place of matmuls; a shared weight is cut once."""

    def __init__(self, graph: ir.Graph, how: Grouping) -> None:
        self._graph, self._how = graph, how
        self._titles = [f"group{i}" for i in range(how.groups)]
        self._titles += ["outliers"] * (how.float_channels > 0)
        self._cut: dict[ir.Value, list[ir.Value]] = {}

    def put(self, sorted_readers: Iterable[tuple[Readers, ir.Value]]) -> dict[str, str]:
        """Rewrite all; the sorted activation is beside each. Return why each part is in float."""
        reasons: dict[str, str] = {}
        for readers, value in sorted_readers:
            parts = self._split(value, str(readers.value.name))
            for node in readers.nodes:
                self._sum(node, parts)
                for title in self._titles:
                    outlier = title == "outliers"
                    reasons[f"{node.name}/{title}"] = OUTLIER_REASON if outlier else ""
        return reasons

    def _split(self, value: ir.Value, name: str) -> Sequence[ir.Value]:
        width = last_length(value)
        assert width is not None and value.shape is not None
        sizes = np.array(self._how.sizes(width, name))
        lengths = add_initializer(self._graph, fresh_name(self._graph, f"{name}_lengths"), sizes)
        node = ir.node(
            "Split",
            [value, lengths],
            attributes={"axis": -1},
            num_outputs=len(sizes),
            name=f"{name}/parts",
        )
        for title, size, output in zip(self._titles, sizes.tolist(), node.outputs, strict=True):
            output.name = fresh_name(self._graph, f"{name}_{title}")
            output.type, output.shape = value.type, ir.Shape([*value.shape[:-1], size])
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], node)
        else:
            self._graph.insert_after(producer, node)
        return node.outputs

    def _sum(self, matmul: ir.Node, parts: Sequence[ir.Value]) -> None:
        result, total = matmul.outputs[0], None
        for title, part, rows in zip(self._titles, parts, self._rows(matmul), strict=True):
            nodes = [ir.node("MatMul", [part, rows], name=f"{matmul.name}/{title}")]
            if total is not None:
                sum_of = [total, nodes[0].outputs[0]]
                nodes.append(ir.node("Add", sum_of, name=f"{matmul.name}/plus_{title}"))
            for node in nodes:
                made = node.outputs[0]
                made.name = fresh_name(self._graph, str(node.name).replace("/", "_"))
                made.type, made.shape = result.type, result.shape
            self._graph.insert_before(matmul, nodes)
            total = nodes[-1].outputs[0]
        assert total is not None
        name = result.name
        result.replace_all_uses_with(total, replace_graph_outputs=True)
        self._graph.remove(matmul, safe=True)
        total.name = name

    def _rows(self, matmul: ir.Node) -> list[ir.Value]:
        """Return the rows of a matmul's weight that belong to each part."""
        weight = matmul.inputs[1]
        assert weight is not None
        if weight not in self._cut:
            whole = array_of(weight)
            ends = np.cumsum(self._how.sizes(len(whole), matmul.name or ""))[:-1]
            self._cut[weight] = [
                add_initializer(
                    self._graph, fresh_name(self._graph, f"{matmul.name}/{title}.weight"), rows
                )
                for title, rows in zip(self._titles, np.split(whole, ends), strict=True)
            ]
        return self._cut[weight]
