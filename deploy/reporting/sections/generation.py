"""Decoders as two graphs: how long a prompt takes, and how long one token after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.profiling.results import Row
from deploy.profiling.statistics import Estimate
from deploy.profiling.summary import Comparison, RowFigures
from deploy.reporting.document import Cell, Column, Note, Section, Table
from deploy.reporting.figures import SUBJECT, interval, ms_decimals, rounded, subject

PHASES = {"prefill": "prefill", "decode": "per-token decode"}
"""Names of the models that ``deploy export --kv-cache`` writes."""

COLUMNS = (
    Column("Phase"),
    *SUBJECT,
    Column("Sequences", numeric=True),
    Column("Tokens each", numeric=True),
    Column("p50 of a call", "ms", numeric=True),
    Column("p50 ÷ tokens", "ms", numeric=True),
    Column("tokens/s", numeric=True),
)


def section(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Section | None:
    """Return one line per configuration of either graph; None without any."""
    if not any(row.model in PHASES and row.latency for row in rows):
        return None
    figures = [figures for comparison in comparisons for figures in comparison.rows]
    return Section(
        title="Prefill and per-token decode",
        order=31,
        lead="A decoder's two graphs, timed each on its own: one reads a prompt and fills the "
        "cache, the other reads one token and the cache, once for every token that is written.",
        tables=(
            Table("Prefill and decode", COLUMNS, tuple(_lines(figures)), tall=True, brief=True),
        ),
        notes=(
            Note(
                "Tokens per second are of all sequences of a call. The longer the cache, the "
                "longer a token takes: its length is that of the data which were timed."
            ),
        ),
    )


def _lines(figures: Sequence[RowFigures]) -> Iterator[tuple[Cell, ...]]:
    for phase, name in PHASES.items():
        for one in figures:
            row, median = one.row, one.median_ms
            if row.model != phase or row.latency is None or median is None:
                continue
            count = row.latency.sequence
            each = Estimate(*(ms / count for ms in (median.value, median.low, median.high)))
            rate = row.latency.batch * count / median.value * 1e3
            yield (
                Cell(name),
                *subject(row),
                Cell(str(row.latency.batch), order=row.latency.batch),
                Cell(str(count), order=count),
                _ms(median, row),
                _ms(each, row),
                Cell(rounded(rate, 1), row.kind, order=rate),
            )


def _ms(found: Estimate, row: Row) -> Cell:
    decimals = ms_decimals(found.value)
    return Cell(rounded(found.value, decimals), row.kind, interval(found, decimals),
                order=found.value)  # fmt: skip
