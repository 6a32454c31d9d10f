"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server; the mean batch is ``trueint8_batch_rows`` sum ÷ count."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "trueint8_requests",
            "Inference requests answered, by HTTP status.",
            ["model", "status"],
            registry=self._registry,
        )
        self.request_s = Histogram(
            "trueint8_request_seconds",
            "From a request's first byte to its answer.",
            ["model"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._wait_s = Histogram(
            "trueint8_queue_seconds",
            "Time that a request waited for its batch.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._compute_s = Histogram(
            "trueint8_compute_seconds",
            "Time that the engine took for a batch.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._rows = Histogram(
            "trueint8_batch_rows", "Rows of a batch.", buckets=_ROWS, registry=self._registry
        )
        self._batched = Histogram(
            "trueint8_batch_requests",
            "Requests of a batch.",
            buckets=_ROWS,
            registry=self._registry,
        )
        queue = Gauge("trueint8_queue_requests", "Requests waiting.", registry=self._registry)
        queue.set_function(waiting)

    def executed(self, rows: int, waits_s: Sequence[float], compute_s: float) -> None:
        """Count one batch."""
        self._rows.observe(rows)
        self._batched.observe(len(waits_s))
        self._compute_s.observe(compute_s)
        for wait in waits_s:
            self._wait_s.observe(wait)

    def text(self) -> bytes:
        """Return all of them in Prometheus's format."""
        return generate_latest(self._registry)
