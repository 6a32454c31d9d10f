"""What an attention variant takes on an engine, relative to vanilla attention in float."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.profiling.gates import machine_under_load
from deploy.profiling.results import Row
from deploy.profiling.statistics import Estimate, ratio_apart, speed_up
from deploy.profiling.summary import Comparison, RowFigures

VANILLA = "vanilla"

OF_ONE_CALL = frozenset({"load_average_1m", "rounds", "seed"})
"""What the environment says of one call, not of the machine and what is installed on it."""


def vanilla_beside(comparison: Comparison, comparisons: Sequence[Comparison]) -> Comparison | None:
    """Return the vanilla model that another variant of it is held against.

    Of the same machine and versions, engine, task, data, input shape and threads: vanilla of the
    same name, or of the only other name, since a checkpoint is often named after its attention; of
    the same session where there is one. None where there is none, where there are several names to
    choose from, where nothing was timed, or where there is no other variant.

    Args:
        comparison: Of the variant; vanilla is held against itself.
        comparisons: All there are.
    """
    if all(_attention(c) == VANILLA for c in comparisons):
        return None
    if _attention(comparison) == VANILLA:
        return comparison if comparison.fastest_float else None
    setting = _setting(comparison)
    vanillas = [c for c in comparisons if _attention(c) == VANILLA and setting is not None]
    found = [c for c in vanillas if _setting(c) == setting]
    found.sort(key=lambda c: c.rows[0].row.session != comparison.rows[0].row.session)
    names = {other.model for other in found}
    if comparison.model in names:
        names = {comparison.model}
    return next((c for c in found if c.model in names), None) if len(names) == 1 else None


def relative_latency(figures: RowFigures, vanilla: Comparison | None) -> Estimate | None:
    """Return p50 ÷ that of vanilla's fastest float on the same engine; above 1 is slower.

    Rows that ran in the same rounds are paired. Where they did not, and others took processor time
    meanwhile, there is no figure, since the ratio would be as much theirs as the variant's.
    """
    baseline = vanilla.fastest_float if vanilla is not None else None
    if vanilla is None or baseline is None:
        return None
    if baseline.row.latency is None or figures.row.latency is None:
        return None
    same = ran_beside(baseline.row, figures.row)
    if not same and any(
        next(machine_under_load([row]), None) for row in (baseline.row, figures.row)
    ):
        return None
    below, above = baseline.row.latency, figures.row.latency
    if same:
        return speed_up(above.rounds_ns, below.rounds_ns, below.launches)
    launches = (below.launches, above.launches)
    return ratio_apart(below.rounds_ns, above.rounds_ns, launches)


def ran_beside(a: Row, b: Row) -> bool:
    """Say whether the rounds of two rows ran beside each other, and are therefore paired."""
    if a.latency is None or b.latency is None or a.session != b.session:
        return False
    if a.latency.beside or b.latency.beside:
        return a.latency.beside == b.latency.beside
    return (a.bundle_sha256, a.engine) == (b.bundle_sha256, b.engine)


def _attention(comparison: Comparison) -> str:
    return comparison.rows[0].row.attention


def _setting(comparison: Comparison) -> tuple[object, ...] | None:
    """Return what must be alike for two latencies to be compared; None where none was timed."""
    if comparison.fastest_float is None or comparison.fastest_float.row.latency is None:
        return None
    row, latency = comparison.fastest_float.row, comparison.fastest_float.row.latency
    machine = {k: v for k, v in row.environment.items() if k not in OF_ONE_CALL}
    amount = (latency.batch, latency.sequence, latency.threads)
    return (machine, row.engine, row.task, row.data, *amount)
