"""What servers count, from their Prometheus metrics: ours and Triton's."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from deploy.loading.rows import ServerSide


@dataclass(frozen=True, slots=True)
class Counters:
    """Sums since the server was started.

    Attributes:
        rows: That were executed.
        executions: Of the engine.
        requests: That waited in the queue.
        queue_ms: Of all of them.
        compute_ms: Of all that is computed.
        computed: How many times it was added to: executions for ours, requests for Triton.
    """

    rows: float
    executions: float
    requests: float
    queue_ms: float
    compute_ms: float
    computed: float


def counters_from_text(text: str, model: str) -> Counters | None:
    """Read a server's metrics; None if they are neither ours nor Triton's.

    Ours count for the one engine of the server; Triton's for each model by its name.
    """
    sums: dict[str, float] = defaultdict(float)
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.labels.get("model", model) == model:
                    # the parser adds the ending to counters that lack it, as Triton's do
                    sums[sample.name.removesuffix("_total")] += sample.value
    except ValueError:
        return None
    if "trueint8_batch_rows_count" in sums:
        return Counters(
            rows=sums["trueint8_batch_rows_sum"],
            executions=sums["trueint8_batch_rows_count"],
            requests=sums["trueint8_queue_seconds_count"],
            queue_ms=sums["trueint8_queue_seconds_sum"] * 1e3,
            compute_ms=sums["trueint8_compute_seconds_sum"] * 1e3,
            computed=sums["trueint8_compute_seconds_count"],
        )
    if "nv_inference_exec_count" in sums:
        return Counters(
            rows=sums["nv_inference_count"],
            executions=sums["nv_inference_exec_count"],
            requests=sums["nv_inference_request_success"],
            queue_ms=sums["nv_inference_queue_duration_us"] / 1e3,
            compute_ms=sums["nv_inference_compute_infer_duration_us"] / 1e3,
            computed=sums["nv_inference_request_success"],
        )
    return None


def between(before: Counters | None, after: Counters | None) -> ServerSide:
    """Return the means of what happened between two readings; none where nothing did."""
    if before is None or after is None:
        return ServerSide()
    executions = after.executions - before.executions
    requests = after.requests - before.requests
    if executions <= 0 or requests <= 0:
        return ServerSide()
    return ServerSide(
        mean_batch=(after.rows - before.rows) / executions,
        queue_ms=(after.queue_ms - before.queue_ms) / requests,
        compute_ms=(after.compute_ms - before.compute_ms)
        / max(after.computed - before.computed, 1),
    )
