"""One sentence per model and engine: how much faster, at what loss, how much of it in INT8."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.profiling.statistics import Estimate
from deploy.profiling.summary import Comparison, headline_accuracy
from deploy.reporting.document import Note
from deploy.reporting.figures import (
    NOT_RUN,
    accuracy_of,
    accuracy_text,
    configuration,
    float_with_accuracy,
    one_round,
    ratio_decimals,
    rounded,
    verdict,
)
from trueint8.kinds import Kind


def verdict_of(comparison: Comparison) -> Note:
    """Return what is known of INT8 on one engine; every figure in it is of the note's kind."""
    name = f"{comparison.model}: INT8 on {comparison.engine}"
    if comparison.bundle != comparison.model:
        name = f"{comparison.model} ({comparison.bundle}): INT8 on {comparison.engine}"
    int8 = comparison.int8
    if int8 is None:
        text, kind = "not in these results", None
    elif int8.row.kind is Kind.BUILT:
        text, kind = f"{NOT_RUN}; {_coverage(comparison)} by the engine's word", Kind.BUILT
    else:
        parts = [*_speeds(comparison), _accuracy(comparison), _coverage(comparison)]
        text, kind = "; ".join(filter(None, parts)), int8.row.kind
    return Note(f"{text}.", kind, name, model=comparison.model, engine=comparison.engine)


def _speeds(comparison: Comparison) -> Iterator[str]:
    """Yield one clause per float configuration, the fastest of them first."""
    int8, fastest = comparison.int8, comparison.fastest_float
    assert int8 is not None
    ranked = sorted(comparison.speed_ups.items(), key=lambda named: named[1].value)
    if not ranked:
        yield "no speed-up is known: a side was not timed"
    for label, ratio in ranked:
        best = fastest is not None and fastest.row.label == label and len(ranked) > 1
        against = f"{label}, the fastest float" if best else label
        yield _speed(ratio, against, certain=not one_round(int8.row))


def _speed(ratio: Estimate, against: str, *, certain: bool) -> str:
    decimals = ratio_decimals(ratio)
    factor = f"{rounded(ratio.value, decimals)}×"
    if not certain:
        return f"{factor} the speed of {against} in one round, which is no evidence"
    found, ends = verdict(ratio), bracketed(ratio, decimals)
    if found == "faster":
        return f"{factor} faster {ends} than {against}"
    if found == "slower":
        return f"slower than {against}, {factor} its speed {ends}"
    return f"{found} in speed to {against}, {factor} {ends}"


def _accuracy(comparison: Comparison) -> str:
    """Return the change of the headline metric, with its paired interval where scores are kept."""
    int8 = comparison.int8
    assert int8 is not None
    figure = headline_accuracy(int8.row)
    if figure is None:
        return "accuracy was not computed"
    lost = comparison.drop
    if lost is not None and figure.metric in ("perplexity", "accuracy"):
        return " ".join((figure.metric, *change_text(figure.metric, lost)))
    if lost is not None and figure.metric == "cosine":
        same = Estimate(*(1 - v / 100 for v in (lost.value, lost.high, lost.low)))
        return f"cosine to the FP32 outputs {same.value:.5f} {bracketed(same, 5)}"
    single = float_with_accuracy(comparison, figure.metric)
    known = accuracy_of(single, figure.metric)
    if single is None or known is None:
        return f"{figure.metric} {accuracy_text(figure)}, of float unknown"
    return (
        f"{figure.metric} {accuracy_text(figure)} where {configuration(single)} has "
        f"{accuracy_text(known)}, no interval recorded"
    )


def _coverage(comparison: Comparison) -> str:
    if comparison.coverage is None:
        return "the share of MACs in INT8 is unknown"
    return f"{100 * comparison.coverage.share:.1f} % of MACs run in INT8"


def change_text(metric: str, lost: Estimate) -> tuple[str, str]:
    """Return a drop as what happened to the metric, and its interval in brackets.

    Args:
        metric: Perplexity changes by percent; accuracy and cosine by points, a hundredth each.
        lost: As of :func:`deploy.profiling.scoring.drop`.
    """
    if metric == "perplexity":
        return f"{_signed(lost.value)} %", bracketed(lost, 2, signed=True)
    gained = Estimate(-lost.value, -lost.high, -lost.low)
    return f"{_signed(gained.value)} points", bracketed(gained, 2, signed=True)


def bracketed(estimate: Estimate, decimals: int, *, signed: bool = False) -> str:
    """Return the 95 % interval in brackets."""
    sign = "+" if signed else ""
    low, high = (round(v, decimals) + 0.0 for v in (estimate.low, estimate.high))
    return f"[{low:{sign}.{decimals}f}, {high:{sign}.{decimals}f}]"


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # what rounds to nothing is not minus nothing
