"""Move what is hard to quantize in activations into weights; the float function stays the same.

    X·W + b  =  ((X − z)/s)·(s ⊙ W) + (b + z·W)        s, z per channel of X

``smoothquant`` scales only. ``shift-scale`` centres every channel first: z is the middle of its
range. Where X is a LayerNorm's output and nothing else reads it, 1/s and z go into gain and bias;
where X is softmax(…)·V, into the projection that makes V, since the rows of a softmax sum to one.
Elsewhere a Mul and an Add stand before the matmul, and what else reads X reads the original.

References:
    SmoothQuant: Xiao et al. 2022, arXiv:2211.10438. Shift and scale: Wei et al. 2023,
    Outlier Suppression+, arXiv:2304.09145 (there the scale is searched; here s is SmoothQuant's
    on the centred range, with the exponent that served best).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from calib.collector import ChannelMeans
from calib.readers import Readers, find_readers
from calib.rounding import Rounded
from calib.stats import TensorStats
from calib.weights import WeightScheme, quantize_weight
from export.initializers import add_initializer, fresh_name, remove_unused_initializers
from export.initializers import array_of as _array
from export.initializers import is_constant as _constant
from export.matmuls import MatMul
from trueint8.errors import ConfigError, UnknownName
from trueint8.registry import did_you_mean

METHODS = {"smoothquant": 0.5, "shift-scale": 0.9}
"""Names and their exponents α unless another is given."""

AUTO = "auto"
"""Shift and scale where it pays, with the exponent that serves each activation best."""

_LEAST = 1e-5
"""Of a scale before normalization: a channel that is always 0 has no range."""

_GAIN, _SCALED, _SHIFTED = "_smooth", "/scaled", "/smoothed"
"""Endings of what smoothing adds: a LayerNorm's gain, and the Mul and the Add before a matmul."""


@dataclass(frozen=True, slots=True)
class Smoothing:
    """How to smooth.

    Attributes:
        method: One of ``METHODS``, or ``AUTO``.
        alpha: 0 <= α <= 1, how much of a channel's range goes into the weights; None for ``AUTO``.

    Raises:
        UnknownName: If there is no such method.
        ConfigError: If alpha is out of range.
    """

    method: str
    alpha: float | None

    @classmethod
    def named(cls, method: str, alpha: float | None = None) -> Smoothing:
        """Return a method, with its own exponent unless another is given."""
        return cls(method, METHODS.get(method) if alpha is None else alpha)

    @property
    def shifts(self) -> bool:
        """Whether channels are centred, which needs biases corrected after quantization."""
        return self.method != "smoothquant"

    def __post_init__(self) -> None:
        names = (*METHODS, AUTO)
        if self.method not in names:
            raise UnknownName(
                f"no smoothing is called {self.method!r}",
                fix=f"{did_you_mean(self.method, names)}choose one of: {', '.join(names)}",
            )
        if self.method == AUTO and self.alpha is not None:
            raise ConfigError(
                "auto chooses alpha itself", fix="leave alpha out, or choose shift-scale"
            )
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ConfigError(
                f"alpha={self.alpha:g} is out of range; expected 0 <= alpha <= 1",
                fix=f"pass {METHODS[self.method]}",
            )


def smooth(
    model: ir.Model,
    matmuls: Sequence[MatMul],
    stats: Mapping[str, TensorStats],
    how: Smoothing | Mapping[str, Smoothing | None],
) -> dict[str, str]:
    """Smooth the inputs of matmuls, in place.

    Args:
        model: A clean graph; changed.
        matmuls: Those to be quantized, of this graph.
        stats: Statistics of their activations, with extremes per channel.
        how: Method and strength, of all or by activation.

    Returns:
        Where each activation's factors went, by its name before: ``norm``, ``value`` or
        ``explicit``. Activations that were left alone are absent.
    """
    placed: dict[str, str] = {}
    for group in find_readers(model.graph, matmuls):
        name = str(group.value.name)
        chosen = how.get(name) if isinstance(how, Mapping) else how
        weights = [_array(n.inputs[1]) for n in group.nodes]
        factors = channel_factors(stats[name], weights, chosen) if chosen else None
        if factors is None:
            continue
        scale, shift = factors
        placed[name], shift = _divide(model.graph, group, scale, shift)
        for node in group.nodes:
            _multiply(model.graph, node, scale, shift)
    remove_unused_initializers(model.graph)
    return placed


def channel_factors(
    stats: TensorStats, weights: Sequence[np.ndarray], how: Smoothing
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return s (C,), of geometric mean 1, and z (C,); None without extremes per channel.

    Args:
        stats: Of the activation.
        weights: (C, N) of every matmul that reads it.
        how: A method with an exponent of its own.
    """
    assert how.alpha is not None
    low, high = stats.channel_minimum, stats.channel_maximum
    if low is None or high is None or len(low) != len(weights[0]):
        return None
    low, high = low.astype(np.float64), high.astype(np.float64)
    shift = (low + high) / 2 if how.shifts else np.zeros_like(low)
    reach = np.maximum(high - shift, shift - low)
    widest = np.max([np.abs(w).max(axis=1) for w in weights], axis=0).astype(np.float64)
    raw = np.maximum(reach, _LEAST) ** how.alpha / np.maximum(widest, _LEAST) ** (1 - how.alpha)
    scale = raw / np.exp(np.log(raw).mean())
    return np.where(reach > 0, scale, 1.0), shift


def _divide(
    graph: ir.Graph, group: Readers, scale: np.ndarray, shift: np.ndarray
) -> tuple[str, np.ndarray]:
    """Make the group's matmuls read (X − z)/s.

    Returns:
        Where the factors went, and the z that was used: 0 where the way allows no shift.
    """
    value = group.value
    users = {user for user, _ in value.uses()}
    alone = users <= set(group.nodes) and not value.is_graph_output()
    norm = value.producer()
    if alone and norm is not None and norm.op_type == "LayerNormalization":
        _into_norm(graph, norm, scale, shift)
        return "norm", shift
    projection = _value_projection(value, len(scale)) if alone else None
    if projection is not None:
        sums_to_one = projection.weights_sum_to_one
        shift = shift if sums_to_one else np.zeros_like(shift)
        _into_projection(graph, projection, scale, shift)
        return "value", shift
    _explicit(graph, group, scale, shift)
    return "explicit", shift


def _into_norm(graph: ir.Graph, norm: ir.Node, scale: np.ndarray, shift: np.ndarray) -> None:
    gain = _array(norm.inputs[1]).astype(np.float64)
    given = norm.inputs[2] if len(norm.inputs) > 2 else None
    bias = _array(given).astype(np.float64) if given is not None else np.zeros_like(gain)
    norm.replace_input_with(1, _added(graph, f"{norm.inputs[1].name}{_GAIN}", gain / scale))  # type: ignore[union-attr]
    made = _added(graph, f"{norm.inputs[1].name}_shift", (bias - shift) / scale)  # type: ignore[union-attr]
    if len(norm.inputs) > 2:
        norm.replace_input_with(2, made)
    else:
        norm.resize_inputs(3)
        norm.replace_input_with(2, made)


@dataclass(frozen=True, slots=True)
class _Projection:
    """The matmul that makes V, and its bias's Add if it has one."""

    node: ir.Node
    add: ir.Node | None
    weights_sum_to_one: bool


def _value_projection(value: ir.Value, width: int) -> _Projection | None:
    """Return what makes V if ``value`` is Reshape(Transpose(P·V)), V with a column per channel."""
    mixed = _through(value, ("Reshape", "Transpose"))
    if mixed is None or mixed.op_type != "MatMul" or _constant(mixed.inputs[1]):
        return None
    made = _through(mixed.inputs[1], ("Transpose", "Reshape"))
    add = made if made is not None and made.op_type == "Add" else None
    if add is not None:
        sides = [v for v in add.inputs if not _constant(v)]
        if len(sides) != 1 or not _single(sides[0]):
            return None
        made = sides[0].producer() if sides[0] is not None else None
    if made is None or made.op_type != "MatMul" or not _constant(made.inputs[1]):
        return None
    weight = _array(made.inputs[1])
    if weight.ndim != 2 or weight.shape[1] != width:
        return None
    attended = mixed.inputs[0].producer() if mixed.inputs[0] is not None else None
    return _Projection(made, add, attended is not None and attended.op_type == "Softmax")


def _through(value: ir.Value | None, operators: Sequence[str]) -> ir.Node | None:
    """Return the first node above ``value`` that is none of ``operators``, if each is read once."""
    while value is not None:
        node = value.producer()
        if node is None or not _single(value):
            return None
        if node.op_type not in operators:
            return node
        value = node.inputs[0]
    return None


def _into_projection(
    graph: ir.Graph, projection: _Projection, scale: np.ndarray, shift: np.ndarray
) -> None:
    node = projection.node
    weight = _array(node.inputs[1]).astype(np.float64)
    node.replace_input_with(1, _added(graph, f"{node.name}.weight_smooth", weight / scale))
    if projection.add is None:
        if shift.any():
            _add_after(graph, node, -shift / scale)
        return
    place = 0 if _constant(projection.add.inputs[0]) else 1
    bias = _array(projection.add.inputs[place]).astype(np.float64)
    made = _added(graph, f"{node.name}.bias_smooth", (bias - shift) / scale)
    projection.add.replace_input_with(place, made)


def _explicit(graph: ir.Graph, group: Readers, scale: np.ndarray, shift: np.ndarray) -> None:
    name = str(group.value.name)
    product = ir.node("Mul", [group.value, _added(graph, f"{name}_unscale", 1.0 / scale)])
    nodes = [product]
    if shift.any():
        offset = _added(graph, f"{name}_unshift", -shift / scale)
        nodes.append(ir.node("Add", [product.outputs[0], offset]))
    for node, ending in zip(nodes, (_SCALED, _SHIFTED), strict=False):
        node.name = f"{name}{ending}"
        node.outputs[0].name = fresh_name(graph, f"{name}_{ending[1:]}")
        node.outputs[0].type, node.outputs[0].shape = group.value.type, group.value.shape
    producer = group.value.producer()
    if producer is None:
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(producer, nodes)
    for node in group.nodes:
        node.replace_input_with(0, nodes[-1].outputs[0])


def _multiply(graph: ir.Graph, node: ir.Node, scale: np.ndarray, shift: np.ndarray) -> None:
    """Give a matmul s ⊙ W and the bias z·W."""
    weight = _array(node.inputs[1]).astype(np.float64)
    made = _added(graph, f"{node.name}.weight_smoothed", weight * scale[:, None])
    node.replace_input_with(1, made)
    if shift.any():
        _add_bias(graph, node, shift @ weight)


def explicit_factors(value: ir.Value) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Return u (C,) and v (C,) of the u·X + v that stands before a matmul; None if none does.

    Args:
        value: What the matmul, or its Q/DQ, reads. v is None where nothing was shifted.
    """
    node, shift = value.producer(), None
    if node is not None and node.op_type == "Add" and str(node.name).endswith(_SHIFTED):
        shift, node = _array(node.inputs[1]), node.inputs[0].producer()  # type: ignore[union-attr]
    if node is None or node.op_type != "Mul" or not str(node.name).endswith(_SCALED):
        return None
    return _array(node.inputs[1]), shift


def smoothed_norms(model: ir.Model) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return gain and bias (C,) of every LayerNorm that took factors, by its gain's old name."""
    found = {}
    for node in model.graph:
        gain = node.inputs[1] if node.op_type == "LayerNormalization" else None
        if gain is not None and str(gain.name).endswith(_GAIN):
            name = str(gain.name).removesuffix(_GAIN)
            found[name] = _array(gain), _array(node.inputs[2])
    return found


def correct_biases(
    model: ir.Model,
    matmuls: Sequence[MatMul],
    means: Mapping[str, ChannelMeans],
    weights: WeightScheme,
    rounded: Rounded | None = None,
) -> None:
    """Take the mean error of quantization out of every matmul's bias, in place.

        b −= E[Q(X)]·Q(W) − E[X]·W

    Args:
        model: The float graph that Q/DQ will be inserted into.
        matmuls: Those to be quantized.
        means: Of their activations.
        weights: How their weights will be quantized.
        rounded: Weights that are quantized already.

    References:
        Nagel et al. 2019, arXiv:1906.04721, section 4.2 (there the means are predicted).
    """
    nodes = {node.name: node for node in model.graph}
    for matmul in matmuls:
        node = nodes[matmul.name]
        if not _constant(node.inputs[1]) or matmul.activation not in means:
            continue
        weight = _array(node.inputs[1])
        if weight.ndim != 2:
            continue
        known = (rounded or {}).get(str(node.inputs[1].name))  # type: ignore[union-attr]
        integers, params = known or quantize_weight(weight, 1, weights, name=matmul.name)
        mean = means[matmul.activation]
        drift = mean.quantized @ (integers * params.scale) - mean.exact @ weight
        _add_bias(model.graph, node, -drift)
    remove_unused_initializers(model.graph)


def _add_bias(graph: ir.Graph, node: ir.Node, bias: np.ndarray) -> None:
    """Add (N,) to a matmul's result: to a constant that the sum it is in has already, if any."""
    value = node.outputs[0]
    while _single(value):  # a sum of parts has its constant behind the last
        add, place = next(iter(value.uses()))
        if add.op_type != "Add":
            break
        other = add.inputs[1 - place]
        if _constant(other) and _array(other).shape == bias.shape:
            total = _array(other).astype(np.float64) + bias
            add.replace_input_with(1 - place, _added(graph, f"{node.name}.bias_moved", total))
            return
        value = add.outputs[0]
    _add_after(graph, node, bias)


def _add_after(graph: ir.Graph, node: ir.Node, bias: np.ndarray) -> None:
    value = node.outputs[0]
    constant = _added(graph, f"{node.name}.bias_added", bias)
    add = ir.node("Add", [value, constant], name=f"{node.name}/bias_added")
    result = add.outputs[0]
    result.name, value.name = value.name, fresh_name(graph, f"{value.name}_unbiased")
    result.type, result.shape = value.type, value.shape
    value.replace_all_uses_with(result, replace_graph_outputs=True)
    add.replace_input_with(0, value)
    graph.insert_after(node, add)


def _added(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    return add_initializer(graph, fresh_name(graph, name), array.astype(np.float32))


def _single(value: ir.Value | None) -> bool:
    return value is not None and len(value.uses()) == 1 and not value.is_graph_output()
