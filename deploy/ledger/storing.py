"""Ledgers in a results file, beside the rows of the same bundle, engine and configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.ledger.record import Ledger
from deploy.profiling.results import Row, read_results, write_results
from deploy.sessions import Configuration, Graph
from trueint8.errors import ConfigError

_Key = tuple[str, str]


def check_holds(path: Path, bundle_sha256: str) -> None:
    """Refuse a results file without the bundle, before anything is timed for it.

    Raises:
        DataError: If it is no results file.
        ConfigError: If no row of it is of the bundle.
    """
    if not any(row.bundle_sha256 == bundle_sha256 for row in read_results(path)):
        raise ConfigError(
            f"{path} holds no row of this bundle",
            fix="profile the bundle first: deploy profile BUNDLE --data EVAL -o FILE",
        )


def add_to_results(path: Path, bundle_sha256: str, ledgers: Sequence[Ledger]) -> int:
    """Put each ledger into its row, in place of an older one; return how many rows got one.

    Args:
        path: A file that ``deploy profile`` wrote.
        bundle_sha256: Of the bundle.
        ledgers: Of its engines.

    Raises:
        DataError: If it is no results file.
    """
    held: Mapping[_Key, Ledger] = {(x.engine, x.configuration): x for x in ledgers}
    rows, count = [], 0
    for row in read_results(path):
        found = held.get(_key(row)) if row.bundle_sha256 == bundle_sha256 else None
        count += found is not None
        rows.append(row.model_copy(update={"ledger": found}) if found is not None else row)
    write_results(path, rows)
    return count


def _key(row: Row) -> _Key:
    """Return engine and configuration; a simulation in FP32 is ``simulated-fp32``."""
    if row.graph == "float":
        return row.engine, Configuration("float", row.rest, row.mode).name
    graph: Graph = "int8" if row.precision == "int8" else "simulated"
    return row.engine, Configuration(graph, row.rest, row.mode).name
