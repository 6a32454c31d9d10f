"""An inference request from its bytes to the bytes of its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deploy.serving.batching import Batcher, BatchLimits, deadline_passed, queue_full
from deploy.serving.metrics import Metrics
from deploy.serving.model import ServedModel, TensorInfo
from deploy.serving.protocol import (
    InferRequest,
    check_wanted,
    encode_response,
    parse_request,
    select_outputs,
)
from deploy.serving.text import INPUT, SUFFIX, TextModel

VERSION = "1"
PLATFORM = "trueint8"

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What bounds a server's memory and its clients' patience.

    Attributes:
        waiting: Most requests in the queue; one more is refused with 429.
        deadline_s: Seconds from a request's arrival to its answer; then 504.
        delay_s: Seconds that a batch may wait to fill.
        request_bytes: Largest body.
    """

    waiting: int
    deadline_s: float
    delay_s: float
    request_bytes: int


@dataclass(slots=True)
class Service:
    """One model, and the text model before it, behind one queue.

    Attributes:
        name: Of the model.
        model: It.
        text: None where the bundle can take no text.
        limits: Of requests.
        token: What clients must present; None if anyone may ask.
        about: What is served: bundle, engine, graph and precision; part of the metadata.
        draining: Whether the server is about to stop.
        inside: Requests that were let in and are not answered yet.
    """

    name: str
    model: ServedModel
    text: TextModel | None
    limits: ServiceLimits
    token: bytes | None = None
    about: Mapping[str, str] = field(default_factory=dict)
    draining: bool = False
    inside: int = 0
    metrics: Metrics = field(init=False)
    batcher: Batcher = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(lambda: self.batcher.waiting)
        rows = self.model.most_rows if self.model.batches else 1
        limits = BatchLimits(rows, self.limits.waiting, self.limits.delay_s)
        self.batcher = Batcher(self.model.session.run, limits, self.metrics)

    @property
    def names(self) -> list[str]:
        """The models it answers for."""
        return [self.name] if self.text is None else [self.name, self.name + SUFFIX]

    def close(self) -> None:
        """Answer what waits, then free the engine."""
        self.batcher.close()
        self.model.session.close()

    def enter(self) -> None:
        """Let a request in before its body is read, which takes memory.

        Raises:
            Refusal: 429, if as many as may wait, and a batch more, are inside.
        """
        if self.inside >= self.limits.waiting + self.model.most_rows:
            raise queue_full(self.limits.waiting)
        self.inside += 1

    def leave(self) -> None:
        """Forget a request whose answer was sent."""
        self.inside -= 1

    def metadata(self, name: str) -> dict[str, Any]:
        """Return the protocol's description of a model."""
        texts = self._text(name)
        inputs = self.model.inputs if texts is None else (INPUT,)
        found: dict[str, Any] = {
            "name": name,
            "versions": [VERSION],
            "platform": PLATFORM,
            "inputs": [i.to_plain() for i in inputs],
            "outputs": [o.to_plain() for o in self._outputs(texts)],
            "parameters": dict(self.about),
        }
        if texts is not None and texts.labels:
            found["outputs"][0]["parameters"] = {"labels": ",".join(texts.labels)}
        return found

    async def infer(
        self, name: str, body: bytes, header_length: str | None, arrived: float
    ) -> tuple[bytes, int | None]:
        """Return the answer to one request, as :func:`encode_response` does.

        Args:
            name: One of :attr:`names`.
            body: As it came.
            header_length: As of :func:`parse_request`.
            arrived: When the request did, by :func:`time.monotonic`.

        Raises:
            Refusal: If it gets none.
        """
        # on a thread, as long JSON and long texts would hold up everyone else
        request, requests = await asyncio.to_thread(self._prepared, name, body, header_length)
        given = self.limits.deadline_s
        if request.timeout_us is not None:
            given = min(given, request.timeout_us / 1e6)
        futures = self.batcher.submit(requests, arrived + given)
        answers = await _within(futures, arrived + given)
        return await asyncio.to_thread(self._encoded, name, request, answers)

    def _prepared(
        self, name: str, body: bytes, header_length: str | None
    ) -> tuple[InferRequest, list[Arrays]]:
        request = parse_request(body, header_length)
        texts = self._text(name)
        check_wanted(request, [o.name for o in self._outputs(texts)])
        if texts is None:
            self.model.check(request.inputs)
            return request, [request.inputs]
        given = texts.texts(request.inputs, self.model.most_rows)
        arrays: list[Arrays] = list(texts.encode(given, truncate=request.truncate))
        for one in arrays:
            self.model.check(one)
        return request, arrays

    def _encoded(
        self, name: str, request: InferRequest, answers: list[dict[str, np.ndarray]]
    ) -> tuple[bytes, int | None]:
        texts = self._text(name)
        if texts is None:
            (outputs,) = answers
        else:
            rows = [texts.answer(answer) for answer in answers]
            outputs = {texts.output.name: np.concatenate(rows)}
        return encode_response(name, VERSION, request.id, select_outputs(request, outputs))

    def _text(self, name: str) -> TextModel | None:
        return None if name == self.name else self.text

    def _outputs(self, texts: TextModel | None) -> tuple[TensorInfo, ...]:
        return self.model.outputs if texts is None else (texts.output,)


async def _within(
    futures: list[Future[dict[str, np.ndarray]]], deadline: float
) -> list[dict[str, np.ndarray]]:
    waiting = asyncio.gather(*map(asyncio.wrap_future, futures))
    try:
        # leaving cancels the futures, which takes them out of the queue
        return await asyncio.wait_for(waiting, max(deadline - time.monotonic(), 0))
    except TimeoutError as err:
        raise deadline_passed() from err
    finally:
        for future in futures:
            future.cancel()
