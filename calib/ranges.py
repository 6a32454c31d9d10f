"""``ranges.safetensors``: what calibration learnt of every tensor, and the ranges chosen from it.

Per tensor ``NAME/points``, ``/weights``, ``/bins`` (each less the one before), ``/counts``,
``/summary`` and, where the last axis is of one length, ``/channels`` hold its statistics;
``/range`` (2,), ``/scale`` (1,) and ``/zero_point`` (1,) what the estimator made of them. The
metadata names the graph, the data and the estimator.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from calib.estimators import ESTIMATORS
from calib.histogram import Histogram
from calib.kernels import squared_errors
from calib.schemes import INT8, QuantParams, Range, Scheme, params_of_range
from calib.stats import Moments, TensorStats
from trueint8.errors import CalibrationError, IntegrityError

FORMAT = "trueint8 ranges 4"


@dataclass(frozen=True, slots=True)
class DataEntry:
    """One pass over some data; ``batches`` of it are in the statistics."""

    name: str
    sha256: str
    samples: int
    batch_size: int
    sequence: int
    seed: int
    batches: int


@dataclass(frozen=True, slots=True)
class Estimator:
    """A registered estimator and its options."""

    name: str
    options: dict[str, float] = field(default_factory=dict)

    def __call__(
        self, tensors: Mapping[str, TensorStats], scheme: Scheme = INT8
    ) -> dict[str, Range]:
        """Return the range it chooses for each tensor."""
        estimate = ESTIMATORS.load(self.name)

        def choose(stats: TensorStats) -> Range:
            found: Range = estimate(stats, scheme, **self.options)
            return found

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            return dict(zip(tensors, threads.map(choose, tensors.values()), strict=True))

    def check(self) -> None:
        """Refuse options that it does not take.

        Raises:
            UnknownName: If there is no such estimator.
            ValueError: Naming the option.
        """
        known = inspect.signature(ESTIMATORS.load(self.name)).parameters
        for name, value in self.options.items():
            if name not in known or (name == "percentile" and not 0 < value <= 100):
                raise ValueError(f"{self.name} takes no {name} of {value}")


@dataclass(frozen=True, slots=True)
class Ranges:
    """Statistics by tensor, of one graph, from one or several passes over data.

    ``graph`` is the SHA-256 of the float graph.
    """

    graph: str
    estimator: Estimator
    data: list[DataEntry]
    stats: Mapping[str, TensorStats]

    def covered(self) -> dict[str, Range]:
        """Return the range of every tensor."""
        return self.estimator(self.stats)

    def restricted(self, tensors: Sequence[str], estimator: Estimator, graph: str) -> Ranges:
        """Return those of some tensors of a graph, with another estimator.

        Raises:
            CalibrationError: If they are of another graph.
        """
        if graph != self.graph or not set(tensors) <= set(self.stats):
            raise CalibrationError(
                "the ranges are of another graph: its SHA-256 is "
                f"{self.graph[:12]}…, this model's is {graph[:12]}…",
                fix="calibrate this model: deploy calibrate MODEL --calib-data DATA -o RANGES",
            )
        return replace(self, estimator=estimator, stats={n: self.stats[n] for n in tensors})

    def merge(self, other: Ranges) -> Ranges:
        """Return the statistics of both passes together, with this one's estimator.

        Raises:
            CalibrationError: If they are of two graphs, or of the same data.
        """
        if self.graph != other.graph or set(self.stats) != set(other.stats):
            raise CalibrationError(
                "the ranges are of two graphs",
                fix="calibrate the same ONNX file on every machine",
            )
        again = {d.sha256: d.name for d in self.data if d in other.data}
        if again:
            raise CalibrationError(
                f"both hold the same pass over {', '.join(again.values())}",
                fix="merge runs over different parts of the data",
            )
        stats = {name: of.merge(other.stats[name]) for name, of in self.stats.items()}
        return replace(self, data=[*self.data, *other.data], stats=stats)


@dataclass(frozen=True, slots=True)
class _About:
    """The metadata of a file of ranges."""

    graph: str
    estimator: Estimator
    data: list[DataEntry]


_ABOUT = TypeAdapter(_About)


def ranges_bytes(ranges: Ranges) -> bytes:
    """Return the file's content."""
    table: dict[str, np.ndarray] = {}
    for name, covered in ranges.covered().items():
        stats = ranges.stats[name]
        params = params_of_range(name, covered)
        seen = stats.histogram
        table[f"{name}/points"] = seen.points
        table[f"{name}/weights"] = _narrowed(seen.weights)
        table[f"{name}/bins"] = _narrowed(np.diff(seen.bins, prepend=np.uint32(0)))
        table[f"{name}/counts"] = _narrowed(seen.counts)
        table[f"{name}/summary"] = _summary(stats)
        if stats.channel_minimum is not None and stats.channel_maximum is not None:
            table[f"{name}/channels"] = np.stack([stats.channel_minimum, stats.channel_maximum])
        table[f"{name}/range"] = np.array([covered.low, covered.high])
        table[f"{name}/scale"] = params.scale.reshape(1)
        table[f"{name}/zero_point"] = np.array([params.zero_point])
    about = asdict(_About(ranges.graph, ranges.estimator, ranges.data))
    # one entry: the library writes several in an order that changes from run to run
    return bytes(save(table, metadata={FORMAT: json.dumps(about)}))


def read_ranges(path: Path) -> Ranges:
    """Read what :func:`ranges_bytes` wrote.

    Raises:
        IntegrityError: If the file is not whole, of another format, or holds what no calibration
            writes.
        UnknownName: If there is no such estimator.
    """
    try:
        with safe_open(path, framework="numpy") as stored:
            metadata = stored.metadata() or {}
            table = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, AttributeError) as err:  # the latter: of dtypes
        raise IntegrityError(
            f"{path} is not a whole safetensors file: {err}", fix="calibrate again"
        ) from err
    if FORMAT not in metadata:
        raise IntegrityError(
            f"{path} holds no ranges of this version of TrueInt8",
            fix="pass a file that `deploy calibrate` wrote, or calibrate again",
        )
    try:
        about = _ABOUT.validate_json(metadata[FORMAT])
        about.estimator.check()
        names = [key.removesuffix("/summary") for key in table if key.endswith("/summary")]
        stats = {name: _stats(table, name) for name in names}
    except (ValueError, TypeError, LookupError, OverflowError) as err:
        raise IntegrityError(
            f"{path} holds what no calibration writes: {str(err).splitlines()[0]}",
            fix="pass a file that `deploy calibrate` wrote, or calibrate again",
        ) from err
    return Ranges(about.graph, about.estimator, about.data, stats)


def _narrowed(counts: np.ndarray) -> np.ndarray:
    """Return counts in the smallest unsigned type that holds them."""
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))


def _summary(stats: TensorStats) -> np.ndarray:
    """Return (12,): what is one number each, and the moments but the count."""
    m = stats.moments
    ends = [stats.minimum, stats.maximum, stats.least, stats.running_minimum, stats.running_maximum]
    counts = [stats.nonfinite, stats.exact, stats.batches]
    return np.array([*ends, *counts, m.mean, m.m2, m.m3, m.m4])


def _stats(table: Mapping[str, np.ndarray], name: str) -> TensorStats:
    summary = table[f"{name}/summary"].tolist()
    low, high, least, running_low, running_high, nonfinite, exact, batches, *moments = summary
    channels = table.get(f"{name}/channels")
    if len(moments) != 4 or (channels is not None and channels.shape[:1] != (2,)):
        raise ValueError(f"the statistics of {name!r} are not whole")
    bins = np.cumsum(_counts(table, f"{name}/bins"), dtype=np.uint64)
    histogram = Histogram(
        points=table[f"{name}/points"],
        weights=_counts(table, f"{name}/weights"),
        bins=np.minimum(bins, np.uint64(0xFFFFFFFF)).astype(np.uint32),
        counts=_counts(table, f"{name}/counts"),
    )
    found = TensorStats(
        histogram=histogram,
        nonfinite=int(nonfinite),
        minimum=low,
        maximum=high,
        least=least,
        exact=bool(exact),
        moments=Moments(histogram.count, *moments),
        batches=int(batches),
        running_minimum=running_low,
        running_maximum=running_high,
        channel_minimum=None if channels is None else channels[0],
        channel_maximum=None if channels is None else channels[1],
    )
    found.check()
    return found


def _counts(table: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    if table[key].dtype.kind != "u":
        raise ValueError(f"{key} holds no counts")
    return table[key].astype(np.uint64)


@dataclass(frozen=True, slots=True)
class RangeRow:
    """One line of the table people read. ``clipped`` is a share, ``sqnr_db`` in decibels."""

    tensor: str
    low: float
    high: float
    minimum: float
    maximum: float
    clipped: float
    sqnr_db: float


def table_rows(ranges: Ranges, scheme: Scheme = INT8) -> list[RangeRow]:
    """Return what each range costs its tensor, from the histogram (SIMULATED)."""
    rows = []
    for name, covered in ranges.estimator(ranges.stats, scheme).items():
        stats = ranges.stats[name]
        params = params_of_range(name, covered, scheme)
        rows.append(
            RangeRow(
                name,
                covered.low,
                covered.high,
                stats.minimum,
                stats.maximum,
                clipped_share(stats, covered),
                sqnr_db(stats, params, scheme),
            )
        )
    return rows


def clipped_share(stats: TensorStats, covered: Range) -> float:
    """Return the share of values outside a range, to within one bin at either end."""
    low, high, counts = stats.values()
    outside = counts[(high < covered.low) | (low > covered.high)].sum()
    return float(outside) / max(stats.moments.count, 1)


def sqnr_db(stats: TensorStats, params: QuantParams, scheme: Scheme = INT8) -> float:
    """Return 10·log₁₀(Σx² / Σ(x − quantized x)²); inf where nothing is lost."""
    low, high, counts = stats.values()
    first = -scheme.levels if scheme.symmetric else -params.zero_point
    last = scheme.levels if scheme.symmetric else scheme.levels - params.zero_point
    scale = np.array([params.scale], np.float64)
    (error,) = squared_errors(low, high, counts.astype(float), scale, first, last)
    m = stats.moments
    signal = m.m2 + m.count * m.mean**2
    if error <= 0.0:
        return np.inf
    return float(10 * np.log10(signal / error)) if signal > 0.0 else 0.0


def entry_from(samples: Any, amount: Any, done: int) -> DataEntry:
    """Return the record of ``done`` batches of ``samples`` asked for as ``amount``."""
    return DataEntry(
        name=samples.name,
        sha256=samples.sha256,
        samples=sum(len(next(iter(b.values()))) for b in samples.batches[:done]),
        batch_size=amount.batch_size,
        sequence=amount.sequence,
        seed=amount.seed,
        batches=done,
    )
