"""The queue, with a session that waits until it is told to go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest

from deploy.serving.batching import Batcher, BatchLimits
from deploy.serving.refusals import Refusal

FAR = 1e9


class Held:
    """Doubles ``x``; each run waits for :attr:`go` and is written down."""

    def __init__(self) -> None:
        self.go, self.started = threading.Event(), threading.Semaphore(0)
        self.runs: list[tuple[int, ...]] = []
        self.counted: list[tuple[int, int]] = []

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.runs.append(arrays["x"].shape)
        self.started.release()
        assert self.go.wait(30)
        if (arrays["x"] < 0).any():
            raise ValueError("a negative number")
        return {"y": arrays["x"] * 2}

    def executed(self, rows: int, waits_s: Sequence[float], compute_s: float) -> None:
        assert compute_s >= 0
        self.counted.append((rows, len(waits_s)))


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def batcher(held: Held) -> Iterator[Batcher]:
    found = Batcher(held.run, BatchLimits(rows=4, waiting=5, delay_s=0), held)
    yield found
    held.go.set()
    found.close()


def ones(rows: int, length: int, value: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.full((rows, length), value)}


def test_equal_shapes_share_a_batch_up_to_its_rows(held: Held, batcher: Batcher) -> None:
    first = batcher.submit([ones(1, 3)], FAR)
    assert held.started.acquire(timeout=30), "the first one runs alone, the rest queue behind it"
    sizes = [(2, 3), (1, 7), (2, 3), (1, 3), (1, 7)]
    rest = batcher.submit([ones(*s, value=n) for n, s in enumerate(sizes)], FAR)
    held.go.set()
    answers = [f.result(30)["y"] for f in [*first, *rest]]
    assert [a.shape for a in answers] == [(1, 3), *sizes]
    assert [int(a[0, 0]) for a in answers] == [2, *(2 * n for n in range(5))]
    assert held.runs == [(1, 3), (4, 3), (2, 7), (1, 3)]
    assert held.counted == [(1, 1), (4, 2), (2, 2), (1, 1)]


def test_the_queue_is_bounded_and_takes_all_or_none(held: Held, batcher: Batcher) -> None:
    running = batcher.submit([ones(1, 1)], FAR)
    assert held.started.acquire(timeout=30)
    batcher.submit([ones(1, 1)] * 4, FAR)
    with pytest.raises(Refusal, match="5 requests are waiting") as caught:
        batcher.submit([ones(1, 1)] * 2, FAR)
    assert caught.value.status == 429 and batcher.waiting == 4
    batcher.submit([ones(1, 1)], FAR)
    held.go.set()
    assert running[0].result(30)["y"] == 2


def test_what_waited_too_long_or_was_given_up_never_runs(held: Held, batcher: Batcher) -> None:
    batcher.submit([ones(1, 1)], FAR)
    assert held.started.acquire(timeout=30)
    late = batcher.submit([ones(1, 2)], time.monotonic())
    given_up = batcher.submit([ones(1, 3)], FAR)
    last = batcher.submit([ones(1, 4)], FAR)
    assert given_up[0].cancel()
    held.go.set()
    with pytest.raises(Refusal, match="within the deadline") as caught:
        late[0].result(30)
    assert caught.value.status == 504
    assert last[0].result(30)["y"].shape == (1, 4)
    assert held.runs == [(1, 1), (1, 4)]


def test_one_that_fails_spoils_no_other(held: Held, batcher: Batcher) -> None:
    batcher.submit([ones(1, 1)], FAR)
    assert held.started.acquire(timeout=30)
    good, bad = batcher.submit([ones(1, 2), ones(1, 2, value=-1)], FAR)
    held.go.set()
    assert good.result(30)["y"].tolist() == [[2, 2]]
    with pytest.raises(Refusal, match="the engine failed") as caught:
        bad.result(30)
    assert caught.value.status == 500 and "negative" not in str(caught.value)
    assert batcher.submit([ones(1, 2)], FAR)[0].result(30)["y"].shape == (1, 2)


def test_closing_answers_what_waits_and_refuses_what_comes(held: Held, batcher: Batcher) -> None:
    futures = batcher.submit([ones(1, n) for n in range(1, 4)], FAR)
    held.go.set()
    batcher.close()
    assert all(f.done() and f.exception() is None for f in futures)
    with pytest.raises(Refusal) as caught:
        batcher.submit([ones(1, 1)], FAR)
    assert caught.value.status == 503


def test_with_a_delay_a_batch_fills(held: Held) -> None:
    held.go.set()
    batcher = Batcher(held.run, BatchLimits(rows=4, waiting=9, delay_s=30), held)
    futures = [batcher.submit([ones(1, 2)], FAR)[0] for _ in range(4)]
    assert [f.result(20)["y"].shape for f in futures] == [(1, 2)] * 4
    assert held.runs == [(4, 2)], "went off when it was full, not after the delay"
    batcher.close()
