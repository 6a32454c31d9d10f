"""A bundle and the audit of its engine to what a results row carries of them."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from calib.ranges import read_ranges, table_rows
from calib.stats import Moments, TensorStats
from deploy.audit import Audit
from deploy.bundle import RANGES, Bundle
from deploy.profiling.evidence import AuditEntry, TensorEntry
from deploy.profiling.results import Row
from export.onnx_file import load_clean

_OUTLYING = 6
"""Standard deviations (Bondarenko et al. 2021, arXiv:2109.12948, section 3)."""


def with_evidence(row: Row, bundle: Bundle, audit: Audit) -> Row:
    """Return a row with what built its bundle and, in INT8, with audit and activations."""
    told: dict[str, Any] = {"built_by": bundle.manifest.command}
    if row.precision == "int8":
        ranges = bundle.path / RANGES
        told["audit"] = audit_entries(audit)
        told["tensors"] = tensor_entries(ranges, bundle.calibrated_graph)
    return row.model_copy(update=told)


def audit_entries(audit: Audit) -> list[AuditEntry]:
    """Return every product of an audit."""
    return [
        AuditEntry(
            matmul=line.matmul,
            weighted=line.weighted,
            macs=line.macs,
            executed=line.executed,
            reason=line.reason,
            kernel=line.kernel,
            why=line.why,
        )
        for line in audit.lines
    ]


@lru_cache(maxsize=4)  # the same for every engine of a bundle
def tensor_entries(path: Path, graph: Path) -> list[TensorEntry] | None:
    """Return every calibrated activation in the graph's order.

    None for bundles of other quantizers, which keep no statistics.

    Args:
        path: The ranges of a bundle whose files were checked.
        graph: That they are of.
    """
    if not path.is_file():
        return None
    ranges = read_ranges(path)
    readers = _readers(load_clean(graph), ranges.stats.keys())
    found = [
        TensorEntry(
            tensor=row.tensor,
            layers=readers[row.tensor],
            low=row.low,
            high=row.high,
            minimum=row.minimum,
            maximum=row.maximum,
            clipped=row.clipped,
            sqnr_db=row.sqnr_db if np.isfinite(row.sqnr_db) else None,
            kurtosis=_kurtosis(ranges.stats[row.tensor].moments),
            beyond_6_sigma=_beyond(ranges.stats[row.tensor]),
            channel_ratio=_channel_ratio(ranges.stats[row.tensor]),
        )
        for row in table_rows(ranges)
    ]
    order = {name: index for index, name in enumerate(readers)}
    return sorted(found, key=lambda entry: order[entry.tensor])


def _readers(graph: ir.Model, tensors: Collection[str]) -> dict[str, list[str]]:
    """Return the matmuls that read each tensor; those read first come first."""
    found: dict[str, list[str]] = {}
    for node in graph.graph:
        for value in node.inputs if node.op_type == "MatMul" else ():
            if value is not None and value.name in tensors:
                found.setdefault(str(value.name), []).append(str(node.name))
    return found | {name: [] for name in tensors if name not in found}


def _kurtosis(moments: Moments) -> float | None:
    return moments.count * moments.m4 / moments.m2**2 if moments.m2 > 0 else None


def _beyond(stats: TensorStats) -> float:
    """Return the share of values beyond 6 σ, to within one bin at either end."""
    moments = stats.moments
    if not moments.count:
        return 0.0
    reach = _OUTLYING * np.sqrt(moments.m2 / moments.count)
    low, high, counts = stats.values()
    outside = counts[(high < moments.mean - reach) | (low > moments.mean + reach)].sum()
    return float(outside) / moments.count


def _channel_ratio(stats: TensorStats) -> float | None:
    if stats.channel_minimum is None or stats.channel_maximum is None:
        return None
    largest = np.maximum(np.abs(stats.channel_minimum), np.abs(stats.channel_maximum))
    median = float(np.median(largest))
    return float(largest.max()) / median if median > 0 and np.isfinite(largest).all() else None
