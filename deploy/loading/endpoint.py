"""A model behind a URL: its metadata, its counters, and how it is asked."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from deploy.loading.counters import Counters, counters_from_text
from deploy.loading.payloads import Payload
from deploy.packaging.record import read_record
from trueint8.errors import ConfigError, RunError

_ANSWER_WITHIN_S = 30


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One model of one server.

    Attributes:
        url: Of the server, without a path.
        model: Its name.
        inputs: Of its metadata.
        about: What the server, or the repository it serves, says that the model is; empty if
            neither does.
        metrics: Where the server's counters are.
        headers: Sent with every request.
    """

    url: str
    model: str
    inputs: Sequence[Mapping[str, Any]]
    about: Mapping[str, str]
    metrics: str
    headers: Mapping[str, str]

    @property
    def infer(self) -> str:
        """Where requests go."""
        return f"{self.url}/v2/models/{self.model}/infer"


def server_and_model(text: str) -> tuple[str, str | None]:
    """Return a server's URL as it is used here, and the model that the text names, if any.

    Args:
        text: ``URL``, or ``URL/v2/models/NAME``.

    Raises:
        ConfigError: If it is neither.
    """
    url = text if "//" in text else f"http://{text}"
    parts = urlsplit(url)
    path = re.fullmatch(r"(?:/v2/models/([^/]+))?/?", parts.path)
    if parts.scheme not in ("http", "https") or not parts.netloc or path is None:
        raise ConfigError(
            f"{text!r} is no URL of a server or of one of its models",
            fix="pass one such as http://127.0.0.1:8000 or http://127.0.0.1:8000/v2/models/NAME",
        )
    return f"{parts.scheme}://{parts.netloc}", path[1]


async def find_endpoint(
    client: aiohttp.ClientSession,
    url: str,
    *,
    model: str | None,
    metrics: str | None,
    headers: Mapping[str, str],
    repository: Path | None,
) -> Endpoint:
    """Ask a server for its models, and for the metadata of one.

    Args:
        client: Asks.
        url: As of :func:`server_and_model`.
        model: Which one; the first that the server lists unless given.
        metrics: URL of its counters; ``/metrics`` of the server unless given.
        headers: Sent with every request.
        repository: That ``deploy package`` wrote and the server serves, to say what the model is.

    Raises:
        RunError: If it does not answer as servers of the protocol do.
        IntegrityError: If the repository has no such model and version, or they are damaged.
    """
    if model is None:
        listed = await _json(client, "POST", f"{url}/v2/repository/index", headers)
        names = [entry.get("name") for entry in listed] if isinstance(listed, list) else []
        if not names:
            raise RunError(f"{url} lists no models", fix="pass --model NAME")
        model = str(names[0])
    found = await _json(client, "GET", f"{url}/v2/models/{model}", headers)
    try:
        inputs = [{k: i[k] for k in ("name", "datatype", "shape")} for i in found["inputs"]]
        about = {str(k): str(v) for k, v in found.get("parameters", {}).items()}
    except (KeyError, TypeError, AttributeError, ValueError) as err:
        raise RunError(
            f"{url} describes {model!r} in another way than the Open Inference Protocol v2",
            fix="check that it is such a server",
        ) from err
    if repository is not None:
        about = _about(repository / model / _last_of(found.get("versions")))
    return Endpoint(url, model, inputs, about, metrics or f"{url}/metrics", headers)


def _last_of(versions: Any) -> str:
    """Return the largest number among the names of versions, as Triton gives them; else "0"."""
    named = versions if isinstance(versions, list) else []
    return str(max((int(v) for v in named if str(v).isdecimal()), default=0))


def _about(version: Path) -> dict[str, str]:
    """Return what a packaged version is, in the words of ``deploy serve``."""
    record = read_record(version)
    return {
        "bundle": record.model,
        "bundle_sha256": record.bundle_sha256,
        "engine": record.engine,
        "graph": record.graph,
        "rest": record.rest,
    }


async def _json(
    client: aiohttp.ClientSession, method: str, url: str, headers: Mapping[str, str]
) -> Any:
    body = b"{}" if method == "POST" else None
    try:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            async with client.request(method, url, data=body, headers=headers) as answer:
                text = await answer.text()
                if answer.status != 200:
                    raise RunError(
                        f"{url} answers {answer.status}: {text[:200]}",
                        fix="check the URL, --model and --token-file",
                    )
                return await answer.json(content_type=None)
    except (aiohttp.ClientError, OSError, ValueError) as err:
        raise RunError(
            f"{url} does not answer: {err or type(err).__name__}", fix="check that it is served"
        ) from err


async def triton_config(client: aiohttp.ClientSession, endpoint: Endpoint) -> dict[str, Any] | None:
    """Return the model's configuration; None from servers other than Triton."""
    url = f"{endpoint.url}/v2/models/{endpoint.model}/config"
    try:
        found = await _json(client, "GET", url, endpoint.headers)
    except RunError:
        return None
    return found if isinstance(found, dict) else None


async def read_counters(client: aiohttp.ClientSession, endpoint: Endpoint) -> Counters | None:
    """Return the server's counters; None if it shows none."""
    try:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            async with client.get(endpoint.metrics, headers=endpoint.headers) as answer:
                text = await answer.text()
                return counters_from_text(text, endpoint.model) if answer.status == 200 else None
    except (aiohttp.ClientError, OSError):
        return None


async def check_answers(
    client: aiohttp.ClientSession, endpoint: Endpoint, payloads: Sequence[Payload]
) -> None:
    """Send each body once, one after the other: warms the server up, and finds what it refuses.

    Raises:
        RunError: With the server's words.
    """
    for payload in payloads:
        headers = {**payload.headers, **endpoint.headers}
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                async with client.post(
                    endpoint.infer, data=payload.body, headers=headers
                ) as answer:
                    text = await answer.read()
        except (aiohttp.ClientError, OSError) as err:
            raise RunError(
                f"{endpoint.infer} does not answer: {err or type(err).__name__}",
                fix="check that it is served",
            ) from err
        if answer.status != 200:
            told = text[:200].decode("utf-8", "replace")
            raise RunError(
                f"{endpoint.infer} answers {answer.status}: {told}",
                fix="pass other --data, --seq-len or --rows, which it takes",
            )
