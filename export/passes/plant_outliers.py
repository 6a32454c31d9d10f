"""norm(x)·γ + β ⟶ norm(x)·(γ∘m) + (β∘m), and every consumer divides by m: same function.

m is c in a few channels and 1 in the others. A MatMul behind the norm takes it in its
weight, W ⟶ diag(1/m)·W; any other consumer gets a Mul by 1/m of its own. With c a power
of two all of this is exact in floating point, so the graph computes the same bits, and
its activations have outliers of known size in known channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.initializers import add_initializer, remove_unused_initializers
from trueint8.errors import ExportError

_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
_SCALES_BY = ("Reciprocal", "Sqrt", "Rsqrt")


class PlantOutliers(ir.passes.InPlacePass):
    """See the module's docstring.

    Args:
        factor: c > 0; a power of two keeps every bit of the result.
        channels: How many channels per norm, or which.
        norms: Which norms, in the order of the graph; all unless given.
        seed: Draws the channels where only their number is given.
    """

    def __init__(
        self,
        factor: float = 128.0,
        *,
        channels: int | Sequence[int] = 2,
        norms: Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        if factor <= 0:
            raise ExportError(f"factor={factor} is out of range", fix="pass a factor above 0")
        self.factor, self.channels, self.norms, self.seed = factor, channels, norms, seed
        self.planted: dict[str, list[int]] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph; ``planted`` then maps each tensor to its channels.

        Raises:
            ExportError: If there is no norm with constant gains, or no such channel.
        """
        draw = np.random.default_rng(self.seed)
        found = [node for node in model.graph if _gain_index(node) is not None]
        chosen = [found[i] for i in self.norms] if self.norms is not None else found
        if not chosen:
            raise ExportError(
                "the graph has no LayerNorm or RMSNorm with constant gains",
                fix="pass a graph of a transformer, as `deploy export` writes it",
            )
        for node in chosen:
            self._plant(model.graph, node, draw)
        remove_unused_initializers(model.graph)
        return ir.passes.PassResult(model, modified=True)

    def _plant(self, graph: ir.Graph, node: ir.Node, draw: np.random.Generator) -> None:
        index = _gain_index(node)
        assert index is not None
        width = _constant(node.inputs[index]).size
        scale = np.ones(width, np.float32)
        scale[self._channels(width, draw)] = self.factor
        output = node.outputs[0]
        bias = range(index + 1, len(node.inputs)) if node.op_type in _NORMS else ()
        for place in (index, *bias):
            _replace_constant(graph, node, place, scale)
        consumers = list(output.uses())
        back: ir.Value | None = None
        for user, place in consumers:
            weight = user.inputs[1]
            if user.op_type == "MatMul" and place == 0 and _is_constant(weight):
                _replace_constant(graph, user, 1, (1.0 / scale)[:, None])
                continue
            if back is None:
                inverse = add_initializer(graph, f"{output.name}_unplant", 1.0 / scale)
                undo = ir.node("Mul", [output, inverse], name=f"{output.name}_undo")
                graph.insert_after(node, undo)
                back = undo.outputs[0]
            user.replace_input_with(place, back)
        self.planted[str(output.name)] = [int(c) for c in np.flatnonzero(scale != 1.0)]

    def _channels(self, width: int, draw: np.random.Generator) -> np.ndarray:
        if isinstance(self.channels, int):
            if not 0 < self.channels <= width:
                raise ExportError(
                    f"{self.channels} channels of {width} cannot be planted",
                    fix=f"pass a number from 1 to {width}",
                )
            return draw.choice(width, size=self.channels, replace=False)
        wrong = [c for c in self.channels if not 0 <= c < width]
        if wrong:
            raise ExportError(
                f"there is no channel {wrong[0]} among {width}", fix=f"pass 0 to {width - 1}"
            )
        return np.asarray(self.channels)


def _gain_index(node: ir.Node) -> int | None:
    """Return which input of a norm holds its gains (C,), or None if the node is no norm."""
    if node.op_type in _NORMS:
        return 1 if _is_constant(node.inputs[1]) else None
    if node.op_type != "Mul":
        return None
    for index in (0, 1):
        other = node.inputs[1 - index]
        vector = _is_constant(node.inputs[index]) and _constant(node.inputs[index]).ndim == 1
        if vector and _constant(node.inputs[index]).size > 1 and _is_normalized(other):
            return index
    return None


def _is_normalized(value: ir.Value | None) -> bool:
    """Return whether the value is x·(1/√…) or x/√…, through a Cast or not."""
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "Cast":
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or node.op_type not in ("Mul", "Div"):
        return False
    makers = [i.producer() for i in node.inputs if i is not None]
    return any(m is not None and m.op_type in _SCALES_BY for m in makers)


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


def _constant(value: ir.Value | None) -> np.ndarray:
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()


def _replace_constant(graph: ir.Graph, node: ir.Node, place: int, factor: np.ndarray) -> None:
    """Give ``node`` its own initializer, multiplied; others that share the old one keep it."""
    old = node.inputs[place]
    if old is None:
        return
    array = _constant(old)
    made = add_initializer(
        graph, f"{old.name}_planted_{node.name}", (array * factor).astype(array.dtype)
    )
    node.replace_input_with(place, made)
