"""Which activations have outliers, which is what makes INT8 lose accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.profiling.evidence import TensorEntry
from deploy.profiling.results import Row
from deploy.profiling.summary import Comparison
from deploy.reporting.document import Cell, Chart, Column, Section, Table
from deploy.reporting.layer_chart import layer_chart
from deploy.reporting.layers import ABSENT, Layers, layers, left_out, most_lines, reader

GAUSSIAN = 3.0
COLUMNS = (
    Column("Model"),
    Column("Read by"),
    Column("Kurtosis", numeric=True),
    Column("Infinity norm", numeric=True),
    Column("Beyond 6 σ", numeric=True),
    Column("Widest ÷ median channel", numeric=True),
)


def section(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Section:
    """Return kurtosis over the layers, and the activations of largest; else how to get them."""
    del comparisons
    found = layers(rows)
    if not found:
        return Section(title="Outliers", order=70, lead=ABSENT)
    lines = tuple(line for of in found for line in _lines(of, most_lines(found)))
    return Section(
        title="Outliers",
        order=70,
        lead="Of the float graph that Q/DQ went into, after smoothing, over the calibration data. "
        "Kurtosis, E(x − μ)⁴ ÷ σ⁴, is 3 for a Gaussian (the dashed line) and large where few "
        "values lie far out; the infinity norm is the largest magnitude. A channel much wider "
        "than the median one holds its outliers by itself. Largest kurtosis first."
        + left_out(found),
        charts=tuple(_chart(of) for of in found if any(t.kurtosis for t in of.tensors)),
        tables=(Table("Outliers by activation", COLUMNS, lines, tall=True),),
    )


def _chart(of: Layers) -> Chart:
    worst = max(of.tensors, key=_kurtosis)
    description = (
        f"Chart of the kurtosis of {len(of.tensors)} activations, {of.title}: the largest is "
        f"{_kurtosis(worst):.1f}, of what {reader(worst)} reads."
    )
    spec = layer_chart(
        of.names,
        {"kurtosis": [t.kurtosis or None for t in of.tensors]},
        axis_title="kurtosis",
        logarithmic=True,
        description=description,
        reference=GAUSSIAN,
    )
    return Chart(of.title, description, spec, of.row.model)


def _lines(of: Layers, most: int) -> Iterator[tuple[Cell, ...]]:
    for tensor in sorted(of.tensors, key=_kurtosis, reverse=True)[:most]:
        ratio = tensor.channel_ratio
        yield (
            *of.cells(tensor),
            Cell("constant", muted=True)
            if tensor.kurtosis is None
            else Cell(f"{tensor.kurtosis:.2f}", order=tensor.kurtosis),
            Cell(f"{tensor.absmax:.4g}", order=tensor.absmax),
            Cell(_share(tensor.beyond_6_sigma), order=tensor.beyond_6_sigma),
            Cell("" if ratio is None else f"{ratio:.2f}", order=ratio),
        )


def _share(share: float) -> str:
    return f"{100 * share:.4f} %" if share else "none"


def _kurtosis(tensor: TensorEntry) -> float:
    return 0.0 if tensor.kurtosis is None else tensor.kurtosis
