"""A load test from its first question to its last row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from deploy.hardware import hardware
from deploy.loading import perf_analyzer
from deploy.loading.endpoint import (
    Endpoint,
    check_answers,
    find_endpoint,
    read_counters,
    server_and_model,
    triton_config,
)
from deploy.loading.figures import sustained
from deploy.loading.payloads import Asked, payloads_for
from deploy.loading.ramp import Plan, Target, ramp
from deploy.loading.rows import LoadRow
from trueint8.errors import ConfigError, RunError
from trueint8.progress import Progress


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What to load, and with what.

    Attributes:
        urls: Of servers or of their models, the baseline first.
        model: Of those that name none; each server's first unless given.
        metrics: URLs of counters, one for each of ``urls``, or one if all are of one server; empty
            for each server's ``/metrics``.
        headers: Sent with every request.
        asked: What requests are made of.
        plan: How load rises.
        second_opinion: Whether perf_analyzer runs too, where it is on PATH.
        repository: As of :func:`deploy.loading.endpoint.find_endpoint`.
    """

    urls: Sequence[str]
    model: str | None
    metrics: Sequence[str]
    headers: Mapping[str, str]
    asked: Asked
    plan: Plan
    second_opinion: bool
    repository: Path | None = None


async def load_test(
    request: LoadRequest, progress: Progress, seen: Callable[[LoadRow], None]
) -> list[LoadRow]:
    """Load the servers and return a row per server and rate.

    Args:
        request: What to do.
        progress: Where progress is shown.
        seen: Called with each row as it is measured.

    Raises:
        RunError: If a server does not answer, or refuses the requests.
        ConfigError: If servers do not take the same inputs.
    """
    connector = aiohttp.TCPConnector(limit=0)  # a limit would be a queue of the client's own
    async with aiohttp.ClientSession(connector=connector) as client:
        endpoints = await _endpoints(client, request)
        payloads = payloads_for(endpoints[0].inputs, request.asked)
        for endpoint in endpoints:
            await check_answers(client, endpoint, payloads)
            if await read_counters(client, endpoint) is None:
                progress.say(
                    f"{endpoint.metrics} holds no counters, so there is no mean batch and no "
                    "server's time; Triton has them at port 8002: --metrics-url"
                )
        targets = [Target(endpoint, payloads) for endpoint in endpoints]
        environment = hardware() | {"same_machine": all(map(_is_loopback, endpoints))}
        rows: list[LoadRow] = []
        async for row in ramp(client, targets, request.plan, environment, progress):
            rows.append(row)
            seen(row)
        if request.second_opinion and perf_analyzer.installed():
            rows = [await _with_opinion(client, row, rows, targets, progress) for row in rows]
        return rows


async def _endpoints(client: aiohttp.ClientSession, request: LoadRequest) -> list[Endpoint]:
    named = [server_and_model(url) for url in request.urls]
    metrics: Sequence[str | None] = request.metrics or [None] * len(named)
    if len(metrics) == 1 and len({url for url, _ in named}) == 1:
        metrics = [*metrics] * len(named)
    if len(metrics) != len(named):
        raise ConfigError(
            f"{len(metrics)} --metrics-url for {len(named)} URLs", fix="pass one for each"
        )
    found: list[Endpoint] = []
    for (url, model), counters in zip(named, metrics, strict=True):
        endpoint = await find_endpoint(
            client,
            url,
            model=model or request.model,
            metrics=counters,
            headers=request.headers,
            repository=request.repository,
        )
        if any(endpoint.infer == other.infer for other in found):
            raise ConfigError(
                f"{endpoint.model!r} of {url} is given twice",
                fix="name the models: URL/v2/models/NAME URL/v2/models/OTHER",
            )
        found.append(endpoint)
    for other in found[1:]:
        if other.inputs != found[0].inputs:
            raise ConfigError(
                f"{other.model!r} of {other.url} and {found[0].model!r} of {found[0].url} do not "
                "take the same inputs",
                fix="compare float and INT8 of one model",
            )
    return found


async def _with_opinion(
    client: aiohttp.ClientSession,
    row: LoadRow,
    rows: Sequence[LoadRow],
    targets: Sequence[Target],
    progress: Progress,
) -> LoadRow:
    """Ask perf_analyzer at the highest rate that a server sustained."""
    target = next(t for t in targets if (t.endpoint.url, t.endpoint.model) == (row.url, row.model))
    (own,) = [s for s in sustained(rows) if row in s.rows]
    if row.rate_per_s != own.held_per_s:
        return row
    config = await triton_config(client, target.endpoint)
    if config is None:
        progress.say(f"perf_analyzer is not run: {row.url} gives no configuration, as Triton does")
        return row
    try:
        with progress.step("perf_analyzer"):
            found = perf_analyzer.second_opinion(
                target.endpoint, target.payloads, row.rate_per_s, config
            )
    except RunError as err:
        progress.say(err.problem)
        return row
    return row.model_copy(update={"perf_analyzer": found})


def _is_loopback(endpoint: Endpoint) -> bool:
    host = urlsplit(endpoint.url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_FLAGS = {
    "first_per_s": "--rate",
    "most_per_s": "--most-rate",
    "objective_ms": "--p99-ms",
    "round_s": "--round-s",
    "timeout_s": "--timeout",
}
"""Of fields that are called otherwise on the command line."""


def plan_from(values: Mapping[str, float | int]) -> Plan:
    """Return a plan, refusing values that mean nothing.

    Raises:
        ConfigError: Naming the flag.
    """
    least = {"growth": 1.01, "rounds": 3, "seed": 0}
    for field in dataclasses.fields(Plan):
        floor = least.get(field.name, 1e-3)
        if values[field.name] < floor:
            raise ConfigError(
                f"{_FLAGS.get(field.name, f'--{field.name}')} is {values[field.name]}; "
                f"expected {floor:g} or more",
                fix="see `deploy load --help`",
            )
    return Plan(**values)  # type: ignore[arg-type]
