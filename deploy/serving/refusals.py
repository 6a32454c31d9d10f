"""What a client is told when it gets no answer."""

from __future__ import annotations

from trueint8.errors import RunError


class Refusal(RunError):
    """A request that gets an error instead of an answer.

    Args:
        status: HTTP status.
        problem: What is wrong, in one sentence; the client reads it.
        fix: What the client can change.
    """

    def __init__(self, status: int, problem: str, *, fix: str) -> None:
        super().__init__(problem, fix=fix)
        self.status = status


class ProtocolError(Refusal):
    """The bytes of a request are not the protocol's."""

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(400, problem, fix=fix)
