"""Rows of results files against each other, from their raw samples.

``RESULTS.jsonl``, ``RESULTS.jsonl@ENGINE:CONFIGURATION`` or, where a file has several bundles,
``RESULTS.jsonl@BUNDLE@ENGINE:CONFIGURATION``; every part after the file may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.profiling.comparison import LEAST_LAUNCHES, Comparison, Rounds, compare_stored
from deploy.profiling.contest_text import (
    comparison_advice,
    comparison_lines,
    estimate_text,
    side_line,
)
from deploy.profiling.gates import machine_under_load
from deploy.profiling.results import Row, read_results
from deploy.profiling.statistics import Estimate, ratio_apart, speed_up
from deploy.profiling.variants import OF_ONE_CALL, ran_beside
from trueint8.errors import ConfigError
from trueint8.kinds import Kind

SUFFIX = ".jsonl"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows that were timed, and what is known of them.

    Attributes:
        a: The baseline.
        b: What is compared with it.
        unlike: What is not the same of both, in words.
        ratio: Time of A ÷ time of B with its 95 % interval.
        comparison: None where there are too few launches for a verdict.
        loaded: Others took processor time, and the two did not run beside each other.
    """

    a: Row
    b: Row
    unlike: list[str]
    ratio: Estimate
    comparison: Comparison | None
    loaded: bool

    @property
    def verdict(self) -> str:
        """What is known of B."""
        if self.comparison is None or self.loaded:
            return "no evidence"
        return self.comparison.verdict

    @property
    def kind(self) -> Kind:
        """SIMULATED if either is."""
        kinds = {self.a.kind, self.b.kind}
        return Kind.MEASURED if kinds == {Kind.MEASURED} else Kind.SIMULATED


def names_results(text: str) -> bool:
    """Say whether someone names a results file, not a bundle."""
    return text.partition("@")[0].endswith(SUFFIX)


def pairs_of_results(a: str, b: str, *, allow_unlike: bool) -> list[Pair]:
    """Read two selections and compare each row of one with its like of the other.

    Args:
        a: As in the module's docstring.
        b: Likewise.
        allow_unlike: Whether rows of unlike machines, versions, data or shapes are compared.

    Raises:
        DataError: If a file is no results file.
        ConfigError: If nothing is selected or nothing matches, or rows are unlike.
    """
    return [_compared(x, y, allow_unlike) for x, y in _matched(_selected(a), _selected(b))]


def _selected(text: str) -> list[Row]:
    file, *rest = text.split("@")
    rows = [row for row in read_results(Path(file)) if row.latency is not None]
    engine, _, configuration = (rest[-1] if rest else "").partition(":")
    bundle = rest[0] if len(rest) > 1 else ""
    found = [
        row
        for row in rows
        if bundle in ("", row.bundle)
        and engine in ("", row.engine)
        and configuration in ("", row.configuration)
    ]
    if not found:
        offered = dict.fromkeys(f"{r.bundle}@{r.engine}:{r.configuration}" for r in rows)
        raise ConfigError(
            f"{text} selects no row that was timed",
            fix=f"choose from: {', '.join(offered) or 'none; nothing in it ran'}",
        )
    return found


_KEYS: tuple[Callable[[Row], tuple[str, ...]], ...] = (
    lambda row: (row.bundle, row.engine, row.configuration),
    lambda row: (row.engine, row.configuration),
    lambda row: (row.configuration,),
)


def _matched(a: Sequence[Row], b: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return the two single rows, or rows of one bundle, engine and configuration.

    Without such, of one engine and configuration, or of one configuration; each must be the only
    one of its side.
    """
    if len(a) == len(b) == 1:
        return [(a[0], b[0])]
    for key in _KEYS:
        sides = [{key(row): row for row in rows} for rows in (a, b)]
        alone = all(len(s) == len(rows) for s, rows in zip(sides, (a, b), strict=True))
        shared = [k for k in sides[0] if k in sides[1]]
        if alone and shared:
            return [(sides[0][k], sides[1][k]) for k in shared]
    raise ConfigError(
        "the two have no rows that match one to one",
        fix="select one row of each: RESULTS.jsonl@BUNDLE@ENGINE:CONFIGURATION",
    )


def _compared(a: Row, b: Row, allow_unlike: bool) -> Pair:
    unlike = list(_differences(a, b))
    if unlike and not allow_unlike:
        raise ConfigError(
            f"{row_label(a)} and {row_label(b)} are unlike: {'; '.join(unlike)}",
            fix="profile both in one call, or pass --allow-unlike, and it will be said",
        )
    assert a.latency is not None and b.latency is not None
    paired = ran_beside(a, b)
    launches = (a.latency.launches, b.latency.launches)
    enough = min(launches) >= LEAST_LAUNCHES
    if paired:
        ratio = speed_up(a.latency.rounds_ns, b.latency.rounds_ns, launches[0])
    else:
        ratio = ratio_apart(b.latency.rounds_ns, a.latency.rounds_ns, launches[::-1])
    found = compare_stored(_launches(a), _launches(b), paired=paired) if enough else None
    return Pair(
        a=a,
        b=b,
        unlike=unlike,
        ratio=found.ratio if found is not None else ratio,
        comparison=found,
        loaded=not paired and any(next(machine_under_load([r]), None) for r in (a, b)),
    )


def _launches(row: Row) -> list[Rounds]:
    assert row.latency is not None
    rounds, launches = row.latency.rounds_ns, row.latency.launches
    each = len(rounds) // launches
    return [rounds[i * each : (i + 1) * each] for i in range(launches)]


def _differences(a: Row, b: Row) -> Iterator[str]:
    """Yield what must be the same of two rows and is not."""
    for (name, x), y in zip(_setting(a).items(), _setting(b).values(), strict=True):
        if x != y:
            yield f"{name}: {x} and {y}"
    if bool(a.data_sha256 and b.data_sha256) and a.data_sha256 != b.data_sha256:
        yield f"content of the data: {a.data_sha256[:12]} and {b.data_sha256[:12]}"
    machines = [_flat(row.environment) for row in (a, b)]
    for key in dict.fromkeys([*machines[0], *machines[1]]):
        x, y = (machine.get(key) for machine in machines)
        if x != y:
            yield f"{key}: {x} and {y}"


def _setting(row: Row) -> dict[str, Any]:
    assert row.latency is not None
    return {
        "task": row.task,
        "data": row.data,
        "batch": row.latency.batch,
        "sequence": row.latency.sequence,
        "threads of the engine": row.latency.threads,
        "clock": row.latency.clock,
    }


def _flat(environment: dict[str, Any]) -> dict[str, Any]:
    """Return what belongs to the machine and what is installed on it, without nesting."""
    kept = {k: v for k, v in environment.items() if k not in OF_ONE_CALL}
    inner = kept.pop("versions", {})
    return kept | ({f"version of {k}": v for k, v in inner.items()} if inner else {})


def row_label(row: Row) -> str:
    """Return bundle, engine and configuration as they are typed."""
    return f"{row.bundle}@{row.engine}:{row.configuration}"


def stored_lines(pairs: Sequence[Pair]) -> Iterator[str]:
    """Yield each pair's times, ratio, control and verdict, and what limits it."""
    for pair in pairs:
        for letter, row in zip("AB", (pair.a, pair.b), strict=True):
            yield side_line(letter, row_label(row), _launches(row))
        if pair.unlike:
            yield f"UNLIKE, compared because --allow-unlike was given: {'; '.join(pair.unlike)}"
        if pair.comparison is not None and not pair.loaded:
            yield from comparison_lines(pair.comparison, pair.kind)
        else:
            yield f"time of A ÷ time of B   {estimate_text(pair.ratio)}"
            yield f"verdict: {pair.verdict}  [{pair.kind}]"
        yield from _advice(pair)
        if pair is not pairs[-1]:
            yield ""


def _advice(pair: Pair) -> Iterator[str]:
    if pair.comparison is None:
        yield (
            "too few launches: an interval of one process's rounds lacks what it drew when it "
            f"started; profile with --launches {LEAST_LAUNCHES} or more"
        )
        return
    if not pair.comparison.paired:
        yield (
            "not paired: the two ran at different times, so the interval is wider, and holds an "
            "allowance for the machine; profile both in one call"
        )
    if pair.loaded:
        yield (
            "other processes took processor time while either ran, so nothing is decided; stop "
            "them, and profile both in one call"
        )
    yield from comparison_advice(pair.comparison)


def plain_pairs(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return all figures; the raw samples are in the results files."""
    return [
        {
            "kind": pair.kind,
            "a": row_label(pair.a),
            "b": row_label(pair.b),
            "sessions": [pair.a.session, pair.b.session],
            "unlike": pair.unlike,
            "verdict": pair.verdict,
            "ratio": asdict(pair.ratio),
            **(asdict(pair.comparison) if pair.comparison is not None else {"launches": None}),
            "advice": list(_advice(pair)),
        }
        for pair in pairs
    ]
