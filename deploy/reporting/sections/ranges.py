"""What INT8 covers of every activation, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.profiling.evidence import TensorEntry
from deploy.profiling.results import Row
from deploy.profiling.summary import Comparison
from deploy.reporting.document import Cell, Chart, Column, Section, Table
from deploy.reporting.layer_chart import layer_chart
from deploy.reporting.layers import ABSENT, Layers, layers, left_out, most_lines
from trueint8.kinds import Kind

COLUMNS = (
    Column("Model"),
    Column("Read by"),
    Column("threshold", "Magnitude", numeric=True),
    Column("largest seen", "Magnitude", numeric=True),
    Column("Threshold ÷ largest", numeric=True),
    Column("Clipped", numeric=True),
    Column("SQNR, dB", numeric=True),
)


def section(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Section:
    """Return thresholds over the layers and the lowest SQNR; else how to get them."""
    del comparisons
    found = layers(rows)
    if not found:
        return Section(title="Ranges and clipping", order=60, lead=ABSENT)
    lines = tuple(line for of in found for line in _lines(of, most_lines(found)))
    return Section(
        title="Ranges and clipping",
        order=60,
        lead="Threshold: the largest magnitude that INT8 covers. Largest: of the float graph over "
        "the calibration data. Clipped share and SQNR, 10·log₁₀(Σx² ÷ Σ(x − quantized x)²), are "
        "SIMULATED from histograms; least SQNR first." + left_out(found),
        charts=tuple(map(_chart, found)),
        tables=(Table("Ranges by activation", COLUMNS, lines, tall=True),),
    )


def _chart(of: Layers) -> Chart:
    thresholds = [t.threshold or None for t in of.tensors]
    largest = [t.absmax or None for t in of.tensors]
    clipping = sum(t.clipped > 0 for t in of.tensors)
    worst = min(of.tensors, key=_sqnr)
    description = (
        f"Chart of thresholds and largest magnitudes of {len(of.tensors)} activations, "
        f"{of.title}: {clipping} are clipped; least SQNR is {_decibels(worst)} (SIMULATED), "
        f"of what {worst.layers[0] if worst.layers else worst.tensor} reads."
    )
    spec = layer_chart(
        of.names,
        {"largest magnitude": largest, "threshold": thresholds},
        axis_title="magnitude",
        logarithmic=True,
        description=description,
    )
    return Chart(of.title, description, spec, of.row.model)


def _lines(of: Layers, most: int) -> Iterator[tuple[Cell, ...]]:
    for tensor in sorted(of.tensors, key=_sqnr)[:most]:
        ratio = tensor.threshold / tensor.absmax if tensor.absmax else None
        yield (
            *of.cells(tensor),
            Cell(f"{tensor.threshold:.4g}", order=tensor.threshold),
            Cell(f"{tensor.absmax:.4g}", order=tensor.absmax),
            Cell("" if ratio is None else f"{ratio:.3f}", order=ratio),
            Cell(
                f"{100 * tensor.clipped:.4f} %" if tensor.clipped else "none",
                Kind.SIMULATED,
                order=tensor.clipped,
            ),
            Cell(_decibels(tensor), Kind.SIMULATED, order=tensor.sqnr_db),
        )


def _sqnr(tensor: TensorEntry) -> float:
    return float("inf") if tensor.sqnr_db is None else tensor.sqnr_db


def _decibels(tensor: TensorEntry) -> str:
    return "nothing lost" if tensor.sqnr_db is None else f"{tensor.sqnr_db:.2f}"
