"""What a reconciliation found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.profiling.scoring import DropUnit, Metric
from deploy.profiling.statistics import Estimate
from deploy.reconciliation.closeness import Closeness
from deploy.sessions import Precision
from deploy.tolerance import FLOAT_DB, MARGIN_DB, REPEAT_DB
from trueint8.kinds import Kind

ENGINE, TORCH, SIMULATED, FLOAT = "engine", "torch", "simulated", "float"


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """One layer of an arm alone: its result, and the Q/DQ graph's from the arm's own values before.

    Attributes:
        sqnr_db: Of the arm's to the Q/DQ graph's.
        noise_db: SIMULATED: of the Q/DQ graph's to the float graph's from the same values: what
            quantization does in this layer alone.
        repeat_db: SIMULATED: of the Q/DQ graph run in another order, its rest rounded to the
            arm's type.
        rest: Precision of what is not INT8 in the arm.
    """

    sqnr_db: float
    noise_db: float
    repeat_db: float
    rest: Precision

    @property
    def required_db(self) -> float:
        """min(noise + 6, repeat − 3, what a float engine of that precision must reach)."""
        return min(self.noise_db + MARGIN_DB, self.repeat_db - REPEAT_DB, FLOAT_DB[self.rest])

    @property
    def parts(self) -> bool:
        """Whether the arm computes something else here than the Q/DQ graph."""
        return self.sqnr_db < self.required_db


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer, or an output that no layer gives.

    Attributes:
        layer: Its matmul's name, or ``output NAME``.
        pairs: By ``reference/arm``: with all error from before; only arms that show the layer.
        checks: By arm: without.
    """

    layer: str
    pairs: Mapping[str, Closeness]
    checks: Mapping[str, LayerCheck]


@dataclass(frozen=True, slots=True)
class ArmScore:
    """An arm on labelled or plain data.

    Attributes:
        arm: Its name.
        kind: Of the figures.
        value: The metric.
        lost: Against the float graph, over the same sequences; None for the float graph itself.
        lost_to_simulated: Against the Q/DQ graph in float arithmetic; None for it and for float.
        mcnemar: Probability under no difference to the float graph; None but for accuracy.
    """

    arm: str
    kind: Kind
    value: float
    lost: Estimate | None
    lost_to_simulated: Estimate | None
    mcnemar: float | None


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Everything that was compared.

    Attributes:
        engine: Its name.
        configuration: How it ran.
        rest: Precision of what is not INT8 in it.
        samples: Sequences compared.
        data: Where they come from.
        kinds: Of every arm's values.
        notes: By arm that was looked into: what that changes in it.
        tapped_db: MEASURED: of the outputs with taps to those without, in dB.
        absent: Why an arm is missing, by its name.
        outputs: By output and pair.
        layers: In the graph's order.
        unseen: By arm, layers without a result of their own to see.
        metric: Of ``scores``; None without evaluation data.
        drop_unit: Of what is lost.
        scores: By arm.
    """

    engine: str
    configuration: str
    rest: Precision
    samples: int
    data: str
    kinds: Mapping[str, Kind]
    notes: Mapping[str, str]
    tapped_db: float
    absent: Mapping[str, str]
    outputs: Mapping[str, Mapping[str, Closeness]]
    layers: Sequence[LayerRow]
    unseen: Mapping[str, Sequence[str]]
    metric: Metric | None
    drop_unit: DropUnit | None
    scores: Sequence[ArmScore]

    def parted(self, arm: str) -> list[str]:
        """Return the layers at which an arm parts from the Q/DQ graph, first to last."""
        return [r.layer for r in self.layers if arm in r.checks and r.checks[arm].parts]
