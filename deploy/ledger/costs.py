"""What the matmuls of a graph must at least multiply and move, and how long that takes.

The ceiling is a roofline, per matmul:

    t = max(MACs / peak, bytes / bandwidth)

after Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from calib.collector import value_shapes
from export.products import operands_of, product_macs, products

BITS = {"fp32": 32, "bf16": 16, "fp16": 16, "int8": 8}


@dataclass(frozen=True, slots=True)
class Cost:
    """One product: multiply-accumulates, and the elements of its operands and its result."""

    name: str
    macs: int
    elements: int


@dataclass(frozen=True, slots=True)
class Roof:
    """What a machine offers in one precision, per second."""

    precision: str
    macs_per_s: float
    bytes_per_s: float

    def ceiling_ns(self, cost: Cost) -> float:
        """Return the least time of one product."""
        size = bytes_in([cost], self.precision)
        return max(cost.macs / self.macs_per_s, size / self.bytes_per_s) * 1e9


def bytes_in(costs: Iterable[Cost], precision: str) -> int:
    """Return what products read and write if all of it has one precision."""
    return sum(cost.elements for cost in costs) * BITS[precision] // 8


def costs_of(
    model: ir.Model, batch: Mapping[str, np.ndarray], attentions: Sequence[tuple[str, str]]
) -> list[Cost]:
    """Return the cost of every product of a float graph that can be counted, for one batch.

    Args:
        model: A clean float graph.
        batch: Its inputs.
        attentions: Names of Q·Kᵀ and P·V. What lies between them need never reach memory, so
            neither the scores nor the probabilities count as elements.
    """
    nodes = products(model)
    values = [v for node in nodes for v in (*operands_of(node), node.outputs[0])]
    shapes = value_shapes(model, [str(v.name) for v in values], batch)
    scores, contexts = {s for s, _ in attentions}, {c for _, c in attentions}
    found = []
    for node in nodes:
        macs, name = product_macs(node, shapes), str(node.name)
        moved = operands_of(node)[1 if name in contexts else 0 :]
        if name not in scores:
            moved.append(node.outputs[0])
        if macs is not None:
            elements = sum(prod(shapes[str(v.name)]) for v in moved)
            found.append(Cost(name, macs, elements))
    return found
