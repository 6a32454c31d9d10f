"""Dynamic batching: a bounded queue, deadlines, and one thread that runs the session.

Only requests of equal shapes along all axes but the first share a batch, so nothing is padded and
no answer depends on its neighbours. Nobody waits for a batch to fill unless ``delay_s`` says so:
what arrives while the session runs is the next batch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from deploy.serving.refusals import Refusal
from trueint8.errors import TrueInt8Error

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], dict[str, np.ndarray]]

LOG = logging.getLogger("uvicorn.error")


class Observer(Protocol):
    """Who counts what the batcher does."""

    def executed(self, rows: int, waits_s: Sequence[float], compute_s: float) -> None:
        """One batch ran: its rows, how long each request waited, and how long it took."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Attributes: most rows of one batch, most waiting requests, seconds a batch may fill."""

    rows: int
    waiting: int
    delay_s: float


@dataclass(slots=True, eq=False)
class _Item:
    arrays: Arrays
    deadline: float
    queued: float
    future: Future[dict[str, np.ndarray]] = field(default_factory=Future)

    @property
    def rows(self) -> int:
        return len(next(iter(self.arrays.values())))

    @property
    def key(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return tuple((name, a.shape[1:]) for name, a in sorted(self.arrays.items()))


def queue_full(limit: int) -> Refusal:
    """Return the refusal of a request that would wait behind too many others."""
    return Refusal(429, f"{limit} requests are waiting already", fix="try again later")


def deadline_passed() -> Refusal:
    """Return the refusal of a request whose time is up."""
    return Refusal(504, "no answer within the deadline", fix="send fewer requests at a time")


class Batcher:
    """Queues requests and runs them in batches on a thread of its own."""

    def __init__(self, run: Run, limits: BatchLimits, observer: Observer) -> None:
        self._run, self._limits, self._observer = run, limits, observer
        self._queue: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    def submit(
        self, requests: Sequence[Arrays], deadline: float
    ) -> list[Future[dict[str, np.ndarray]]]:
        """Queue requests, all or none of them.

        Args:
            requests: Arrays by input name, with equally many rows each.
            deadline: Of :func:`time.monotonic`; what has not started by then is dropped.

        Raises:
            Refusal: 429 if the queue has no room, 503 if the batcher is closed.
        """
        now = time.monotonic()
        items = [_Item(arrays, deadline, now) for arrays in requests]
        with self._changed:
            if self._closed:
                raise Refusal(503, "the server is shutting down", fix="ask another one")
            if len(self._queue) + len(items) > self._limits.waiting:
                raise queue_full(self._limits.waiting)
            self._queue.extend(items)
            self._changed.notify()
        return [item.future for item in items]

    def close(self) -> None:
        """Finish what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            self._execute(batch)

    def _next(self) -> list[_Item]:
        """Wait for requests and take a batch; empty once closed and drained."""
        with self._changed:
            while True:
                self._drop_expired()
                if self._queue:
                    left = self._queue[0].queued + self._limits.delay_s - time.monotonic()
                    batch = self._alike()
                    full = sum(item.rows for item in batch) >= self._limits.rows
                    if full or left <= 0 or self._closed:
                        taken = set(map(id, batch))
                        self._queue = deque(i for i in self._queue if id(i) not in taken)
                        return batch
                    self._changed.wait(left)
                elif self._closed:
                    return []
                else:
                    self._changed.wait()

    def _drop_expired(self) -> None:
        now = time.monotonic()
        kept: deque[_Item] = deque()
        for item in self._queue:
            if item.future.cancelled():
                continue
            if item.deadline > now:
                kept.append(item)
            elif item.future.set_running_or_notify_cancel():
                item.future.set_exception(deadline_passed())
        self._queue = kept

    def _alike(self) -> list[_Item]:
        """Return the oldest request and those that fit into one batch with it."""
        first = self._queue[0]
        batch, rows = [first], first.rows
        for item in list(self._queue)[1:]:
            if item.key == first.key and rows + item.rows <= self._limits.rows:
                batch.append(item)
                rows += item.rows
        return batch

    def _execute(self, batch: Sequence[_Item]) -> None:
        started = time.monotonic()
        running = [item for item in batch if item.future.set_running_or_notify_cancel()]
        if not running:
            return
        try:
            answers = self._answers(running)
        except Exception as err:
            if len(running) > 1:  # one may have spoiled it for all
                for item in running:
                    self._alone(item)
                return
            self._fail(running[0], err)
            return
        waits = [started - item.queued for item in running]
        self._observer.executed(
            sum(item.rows for item in running), waits, time.monotonic() - started
        )
        for item, answer in zip(running, answers, strict=True):
            item.future.set_result(answer)

    def _alone(self, item: _Item) -> None:
        started = time.monotonic()
        try:
            (answer,) = self._answers([item])
        except Exception as err:
            self._fail(item, err)
            return
        self._observer.executed(item.rows, [started - item.queued], time.monotonic() - started)
        item.future.set_result(answer)

    def _answers(self, batch: Sequence[_Item]) -> list[dict[str, np.ndarray]]:
        if len(batch) == 1:
            return [self._run(batch[0].arrays)]
        names = batch[0].arrays
        outputs = self._run({n: np.concatenate([i.arrays[n] for i in batch]) for n in names})
        ends = np.cumsum([item.rows for item in batch])
        return [
            # copies, so that one slow client does not hold the outputs of all
            {name: values[end - item.rows : end].copy() for name, values in outputs.items()}
            for item, end in zip(batch, ends, strict=True)
        ]

    def _fail(self, item: _Item, err: Exception) -> None:
        LOG.error("the engine failed on a request", exc_info=err)
        problem = err.problem if isinstance(err, TrueInt8Error) else "the engine failed"
        item.future.set_exception(
            Refusal(500, problem.splitlines()[0], fix="check the values of the inputs")
        )
