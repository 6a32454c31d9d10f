"""f(x)·W ⟶ f(x·P)·(Pᵀ·W): one order for all axes of a channel space, the same function.

Constants are permuted in place. Where a node outside the space makes one of its tensors, a Gather
follows it; where one reads such a tensor, or the graph returns it, a Gather restores the order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.channels import Axis, ChannelSpace, Use
from export.initializers import add_initializer, array_of, fresh_name


class PermuteChannels(ir.passes.InPlacePass):
    """See the module's docstring.

    Args:
        space: Of the graph that is passed.
        order: (C,) the old place of each channel.
    """

    def __init__(self, space: ChannelSpace, order: np.ndarray) -> None:
        self._space, self._order = space, order
        self._orders: dict[str, ir.Value] = {}
        self.gathered: dict[ir.Value, ir.Value] = {}
        """Activations that came in the old order, and what holds them in the new one."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph."""
        graph = model.graph
        for axis in self._space.constants:
            self._permute(graph, axis)
        for value in self._space.activations:
            inside = [use for use in value.uses() if use in self._space.uses]
            outside = [use for use in value.uses() if use not in self._space.uses]
            if value in self._space.sources:
                self.gathered[value] = self._gather(graph, value, "permuted", self._order, inside)
            elif outside or value.is_graph_output():
                self._restore(graph, value, outside)
        return ir.passes.PassResult(model, modified=True)

    def _permute(self, graph: ir.Graph, axis: Axis) -> None:
        """Reorder a constant in place; whoever needs the old order gets a copy."""
        value, place = axis
        array = array_of(value)
        outside = [use for use in value.uses() if use not in self._space.uses]
        if outside or value.is_graph_output():
            copy = add_initializer(graph, fresh_name(graph, f"{value.name}_unpermuted"), array)
            for node, index in outside:
                node.replace_input_with(index, copy)
        value.const_value = ir.tensor(np.take(array, self._order, place), name=value.name)

    def _restore(self, graph: ir.Graph, value: ir.Value, uses: Sequence[Use]) -> None:
        inverse = np.argsort(self._order)
        back = self._gather(graph, value, "restored", inverse, uses)
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = back
                back.name, value.name = value.name, fresh_name(graph, f"{value.name}_permuted")

    def _gather(
        self, graph: ir.Graph, value: ir.Value, what: str, order: np.ndarray, uses: Sequence[Use]
    ) -> ir.Value:
        """Reorder the last axis of a value at run time, for some of its uses."""
        if what not in self._orders:
            name = fresh_name(graph, f"{value.name}_{what}_order")
            self._orders[what] = add_initializer(graph, name, order.astype(np.int64))
        node = ir.node(
            "Gather",
            [value, self._orders[what]],
            attributes={"axis": -1},
            name=f"{value.name}/{what}",
        )
        result = node.outputs[0]
        result.name = fresh_name(graph, f"{value.name}_{what}")
        result.type, result.shape = value.type, value.shape
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], [node])
        else:
            graph.insert_after(producer, node)
        for user, index in uses:
            user.replace_input_with(index, result)
        return result
