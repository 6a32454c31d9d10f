"""What people read of a search."""

from __future__ import annotations

from deploy.manifest import CandidateEntry, Interval, SearchEntry
from deploy.profiling.statistics import Estimate
from deploy.search.strategy import Candidate


def candidate_line(candidate: Candidate | CandidateEntry, unit: str) -> str:
    """Return one candidate's figures."""
    return (
        f"{len(candidate.kept):>3} in float: drop {_shown(candidate.drop, '+.3f')} {unit}, "
        f"{candidate.latency_ms.value:.2f} ms, float ÷ this {_shown(candidate.float_ratio, '.2f')}"
        "  [MEASURED]"
    )


def search_lines(search: SearchEntry) -> list[str]:
    """Return what was taken, and the Pareto front of drop and latency."""
    held = "held" if search.held else "NOT held; this is the least drop found"
    lines = [
        f"target drop {search.target_drop:g} {search.drop_unit} of {search.metric} {held}, with "
        f"{len(search.kept)} matmuls kept in float; float {search.float_value:.4f} "
        f"[MEASURED, {search.engine}], {search.sequences} sequences of {search.data}",
        f"search {search.ended} after {search.seconds:.0f} s and {len(search.candidates)} "
        f"candidates; not beaten in both drop and latency (float: {search.fastest_float.upper()}, "
        "in the same rounds):",
    ]
    front = [c for c in search.candidates if c.on_front]
    lines += [
        candidate_line(c, search.drop_unit) + ("  taken" if c.kept == search.kept else "")
        for c in front
    ]
    taken = next(c for c in search.candidates if c.kept == search.kept)
    if taken not in front:
        lines.append(candidate_line(taken, search.drop_unit) + "  taken")
    return [*lines, *(f"  kept in float: {name}" for name in search.kept)]


def _shown(figure: Estimate | Interval, form: str) -> str:
    return f"{figure.value:{form}} ({figure.low:{form}} to {figure.high:{form}})"
