"""Split a matmul's channels into groups with a scale each, and the widest of all into float.

    X·W = Σ_g X̃[:, I_g]·W̃[I_g, :]  +  X[:, F]·W[F, :]        X̃, W̃: X, W with 0 in place of F

F are the N channels of widest calibrated range, maximum − minimum, of this activation; they are
multiplied in float. The channels are sorted by range and cut into K groups I_g of equal size (sizes
differ by one at most), each quantized with a scale of its own: K INT8 matmuls, summed before the
bias. Scales are calibrated on X̃; the engine reads X itself, since what its quantizer saturates in F
meets rows of zeros.

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

from collections.abc import Iterator, Mapping, Sequence
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
_MASK = "/without_outliers"


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

    def check(self, width: int, tensor: str) -> None:
        """Refuse an activation of too few channels.

        Raises:
            ConfigError: If there are fewer than K, or N would leave none.
        """
        fix = "pass fewer, or keep the matmuls that read it in float with --keep-float"
        if self.groups > width:
            raise ConfigError(
                f"{tensor!r} has {width} channels, too few for {self.groups} groups", fix=fix
            )
        if self.float_channels >= width:
            raise ConfigError(
                f"{tensor!r} has {width} channels; {self.float_channels} in float leave none",
                fix=fix,
            )

    @property
    def titles(self) -> list[str]:
        """What the parts of a matmul are called after it."""
        groups = [f"group{i}" for i in range(self.groups)]
        return [*groups, "outliers"] if self.float_channels else groups


@dataclass(frozen=True, slots=True)
class Grouped:
    """What became of a graph.

    Attributes:
        moved: How the channels of each activation were sorted, by its name before: ``columns`` in
            the weights that make it, ``residual`` in those of all tensors joined with it,
            ``gather`` at run time, ``unsorted`` where there is one group only. Activations that
            were left alone are absent.
        reasons: By the name of each new matmul: why it is not quantized, empty if it is.
    """

    moved: dict[str, str]
    reasons: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Cut:
    """An activation to be split: its readers, it or its sorted copy, F in that order (N,)."""

    readers: Readers
    value: ir.Value
    outliers: np.ndarray


def group_channels(
    model: ir.Model,
    matmuls: Sequence[MatMul],
    stats: Mapping[str, TensorStats],
    how: Grouping,
) -> Grouped:
    """Split matmuls into parts, in place; for calibration, X̃ is computed.

    The parts of ``fc`` are ``fc/group0`` to ``fc/group<K-1>`` and ``fc/outliers``.

    Args:
        model: A clean graph; changed.
        matmuls: Those to be quantized, of this graph.
        stats: Statistics of their activations, with extremes per channel.
        how: How many groups, and how many channels in float.

    Raises:
        ConfigError: If an activation has too few channels.
    """
    common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    found = [r for r in find_readers(model.graph, matmuls) if _known(r.value, stats)]
    reach: dict[str, np.ndarray] = {}
    outliers: dict[str, np.ndarray] = {}
    for readers in found:
        name = str(readers.value.name)
        how.check(last_length(readers.value) or 0, name)
        reach[name] = _reach(stats[name])
        outliers[name] = np.argsort(reach[name], kind="stable")[::-1][: how.float_channels]
        reach[name][outliers[name]] = 0.0
    moved: dict[str, str] = {}
    cuts: list[_Cut] = []
    for space, members in _spaces(model.graph, found) if how.groups > 1 else ():
        order = _order([reach[str(m.value.name)] for m in members])
        sorting = PermuteChannels(space, order)
        sorting(model)
        places = np.argsort(order)
        for member in members:
            name = str(member.value.name)
            shared = "residual" if len(members) > 1 else "columns"
            moved[name] = "gather" if member.value in sorting.gathered else shared
            value = sorting.gathered.get(member.value, member.value)
            cuts.append(_Cut(member, value, places[outliers[name]]))
    if how.groups == 1:
        moved = dict.fromkeys(reach, "unsorted")
        cuts = [_Cut(r, r.value, outliers[str(r.value.name)]) for r in found]
    reasons = _Parts(model.graph, how).put(cuts)
    remove_unused_initializers(model.graph)
    return Grouped(moved, reasons)


def read_saturated(model: ir.Model) -> None:
    """Let the INT8 parts of a grouped graph read X in place of X̃, in place: the same function."""
    graph = model.graph
    for node in [n for n in graph if str(n.name).endswith(_MASK)]:
        same = ir.node("Identity", [node.inputs[0]], name=node.name)
        result, old = same.outputs[0], node.outputs[0]
        result.name, result.type, result.shape = old.name, old.type, old.shape
        graph.insert_before(node, same)
        old.replace_all_uses_with(result)
        graph.remove(node, safe=True)
    remove_unused_initializers(graph)


def _known(value: ir.Value, stats: Mapping[str, TensorStats]) -> bool:
    low = stats[str(value.name)].channel_minimum
    return low is not None and len(low) == last_length(value)


def _reach(stats: TensorStats) -> np.ndarray:
    """Return the range of every channel, (C,) float64."""
    low, high = stats.channel_minimum, stats.channel_maximum
    assert low is not None and high is not None
    reach: np.ndarray = high.astype(np.float64) - low
    return reach


def _spaces(
    graph: ir.Graph, found: Sequence[Readers]
) -> Iterator[tuple[ChannelSpace, list[Readers]]]:
    """Return every space that holds activations to split, with those."""
    left = list(found)
    while left:
        space = channel_space(graph, left[0].value)
        yield space, [r for r in left if r.value in space.activations]
        left = [r for r in left if r.value not in space.activations]


def _order(reach: Sequence[np.ndarray]) -> np.ndarray:
    """Return the channels (C,) from the narrowest to the widest."""
    relative = [of / (of.mean() or 1.0) for of in reach]
    order: np.ndarray = np.argsort(np.max(relative, axis=0), kind="stable")
    return order


class _Parts:
    """Puts parts and their sum in the place of matmuls; a shared weight is cut once."""

    def __init__(self, graph: ir.Graph, how: Grouping) -> None:
        self._graph, self._how = graph, how
        self._made: dict[tuple[ir.Value, bytes], list[ir.Value]] = {}

    def put(self, cuts: Sequence[_Cut]) -> dict[str, str]:
        """Rewrite all, and return why each part is in float."""
        reasons: dict[str, str] = {}
        for cut in cuts:
            parts = self._activations(cut)
            for node in cut.readers.nodes:
                self._sum(node, parts, self._weights(node, cut.outliers))
                for title in self._how.titles:
                    floating = title == "outliers"
                    reasons[f"{node.name}/{title}"] = OUTLIER_REASON if floating else ""
        return reasons

    def _activations(self, cut: _Cut) -> list[ir.Value]:
        """Return X̃[:, I_g] for every group, and X[:, F]."""
        name, width = str(cut.readers.value.name), last_length(cut.value)
        assert width is not None
        rest, floating = cut.value, []
        if len(cut.outliers):
            mask = np.ones(width, np.float32)
            mask[cut.outliers] = 0.0
            places = self._constant(f"{name}_outliers_places", cut.outliers.astype(np.int64))
            picked = ir.node("Gather", [rest, places], {"axis": -1}, name=f"{name}/outliers")
            masked = ir.node("Mul", [rest, self._constant(f"{name}_mask", mask)])
            masked.name = f"{name}{_MASK}"
            self._after(rest, [picked, masked])
            floating = self._named(picked, rest, [f"{name}_outliers"], [len(cut.outliers)])
            (rest,) = self._named(masked, rest, [f"{name}_rest"], [width])
        if self._how.groups == 1:
            return [rest, *floating]
        sizes = [len(part) for part in np.array_split(np.arange(width), self._how.groups)]
        node = ir.node(
            "Split",
            [rest, self._constant(f"{name}_sizes", np.array(sizes))],
            {"axis": -1},
            num_outputs=len(sizes),
            name=f"{name}/groups",
        )
        self._after(rest, [node])
        names = [f"{name}_{title}" for title in self._how.titles[: len(sizes)]]
        return [*self._named(node, rest, names, sizes), *floating]

    def _weights(self, matmul: ir.Node, outliers: np.ndarray) -> list[ir.Value]:
        """Return W̃[I_g, :] for every group, and W[F, :]."""
        weight = matmul.inputs[1]
        assert weight is not None
        key = (weight, outliers.tobytes())
        if key not in self._made:
            whole = array_of(weight)
            rest = whole.copy()
            rest[outliers] = 0.0
            parts = np.array_split(rest, self._how.groups)
            parts += [whole[outliers]] if len(outliers) else []
            self._made[key] = [
                self._constant(f"{matmul.name}/{title}.weight", rows)
                for title, rows in zip(self._how.titles, parts, strict=True)
            ]
        return self._made[key]

    def _sum(self, matmul: ir.Node, parts: list[ir.Value], weights: list[ir.Value]) -> None:
        result, total = matmul.outputs[0], None
        for title, part, rows in zip(self._how.titles, parts, weights, strict=True):
            nodes = [ir.node("MatMul", [part, rows], name=f"{matmul.name}/{title}")]
            if total is not None:
                both = [total, nodes[0].outputs[0]]
                nodes.append(ir.node("Add", both, name=f"{matmul.name}/plus_{title}"))
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

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        return add_initializer(self._graph, fresh_name(self._graph, name), array)

    def _after(self, value: ir.Value, nodes: list[ir.Node]) -> None:
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], nodes)
        else:
            self._graph.insert_after(producer, nodes)

    def _named(
        self, node: ir.Node, like: ir.Value, names: list[str], sizes: list[int]
    ) -> list[ir.Value]:
        assert like.shape is not None
        for output, name, size in zip(node.outputs, names, sizes, strict=True):
            output.name = fresh_name(self._graph, name)
            output.type, output.shape = like.type, ir.Shape([*like.shape[:-1], size])
        return list(node.outputs)
