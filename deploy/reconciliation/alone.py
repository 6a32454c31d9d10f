"""Every layer of an arm alone: what it gives, beside the Q/DQ graph from the arm's own values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from deploy.reconciliation.arms import Arm, Arrays
from deploy.reconciliation.closeness import Comparison
from deploy.reconciliation.layers import Layer
from deploy.reconciliation.outcome import LayerCheck
from deploy.reconciliation.splicing import given_name, splice, tapped_graph
from export.reference import Run, open_reference


class AloneChecks:
    """The layers of one arm, one batch after the other.

    What an arm hands from one tap to the next is the same on both sides, so that an error stays
    in the layer that makes it. Outputs that no layer gives are places of their own.

    Args:
        arm: Its taps.
        places: By layer or output, the value of the Q/DQ graph and that of the float graph.
        runs: Spliced: the Q/DQ graph, the same in another order, and the float graph.
    """

    def __init__(
        self, arm: Arm, places: Mapping[str, tuple[str, str]], runs: Sequence[Run]
    ) -> None:
        self._arm, self._places, self._runs = arm, places, runs
        kinds = ("sqnr", "repeat", "noise")
        self._sums = {place: {k: Comparison() for k in kinds} for place in places}

    def add(self, batch: Arrays, given: Arrays, mask: np.ndarray | None) -> None:
        """Add a batch: its inputs, and what the arm gave for it."""
        quantized, floats = dict(batch), dict(batch)
        for layer in self._arm.values:
            value, floating = self._places[layer]
            quantized[given_name(value)] = floats[given_name(floating)] = given[value]
        alone, again, floating_alone = (
            run(feeds)
            for run, feeds in zip(self._runs, (quantized, quantized, floats), strict=True)
        )
        for place, (value, floating) in self._places.items():
            sums = self._sums[place]
            sums["sqnr"].add(alone[value], given[value], mask)
            sums["repeat"].add(alone[value], again[value], mask)
            sums["noise"].add(floating_alone[floating], alone[value], mask)

    def results(self) -> dict[str, LayerCheck]:
        """Return the check of every place."""
        return {
            place: LayerCheck(
                sums["sqnr"].sqnr_db, sums["noise"].sqnr_db, sums["repeat"].sqnr_db, self._arm.rest
            )
            for place, sums in self._sums.items()
        }


@contextmanager
def alone_checks(
    arm: Arm, layers: Collection[Layer], graph: Path, float_graph: Path, outputs: Sequence[str]
) -> Iterator[AloneChecks]:
    """Open the spliced graphs of an arm.

    Args:
        arm: Its taps.
        layers: Of the Q/DQ graph.
        graph: The Q/DQ graph.
        float_graph: That it was made of.
        outputs: Of both.
    """
    places = places_of(arm, layers, outputs)
    taps = [places[layer] for layer in arm.values]
    values, floats = [value for value, _ in taps], [floating for _, floating in taps]
    with ExitStack() as stack:
        whole = splice(tapped_graph(graph, values), values)
        again = splice(tapped_graph(graph, values, arm.rest), values)
        original = splice(tapped_graph(float_graph, floats), floats)
        runs = [
            stack.enter_context(open_reference(whole)),
            stack.enter_context(open_reference(again, optimized=False)),
            stack.enter_context(open_reference(original)),
        ]
        yield AloneChecks(arm, places, runs)


def places_of(
    arm: Arm, layers: Collection[Layer], outputs: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """Return the values, quantized and float, of an arm's layers and of outputs beside them."""
    known = {layer.name: layer for layer in layers}
    found = {name: (v, known[name].floats[v]) for name, v in arm.values.items()}
    given = set(arm.values.values())
    return found | {f"output {o}": (o, o) for o in outputs if o not in given}
