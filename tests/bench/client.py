"""A cheap HTTP/1.1 client: whole requests out; of an answer no more than its head and beginning is read.

Cheap because it runs on the same cores as what it measures.
"""

import asyncio
import re
from collections.abc import Callable
from typing import cast

_length = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE).search
_HEAD_BYTES_MAX = 65_536
_BODY_SHOWN = 300


class Answer:
    """What came back: the status, and the beginning of the body."""

    __slots__ = ("beginning", "status")

    def __init__(self, status: int, beginning: bytes) -> None:
        self.status = status
        self.beginning = beginning


class Connection(asyncio.Protocol):
    """One connection, one request under way at a time. `on_answer` gets the connection and its answer."""

    def __init__(self, on_answer: Callable[["Connection", Answer], None]) -> None:
        self._on_answer = on_answer
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._missing = 0
        self._answer: Answer | None = None
        self.sent_at = 0.0
        self.size = 0
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, which does not inherit from it

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has closed: whoever waits sees it in the count of answers."""
        del exc
        self.lost = True

    def send(self, request: bytes, sent_at: float, size: int) -> None:
        """Send one request of `size` events; `sent_at` is when it was meant to go out."""
        self.sent_at = sent_at
        self.size = size
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Count what is still missing of the answer."""
        if self._answer is None:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                assert len(self._head) < _HEAD_BYTES_MAX, "an answer's head never ends"
                return
            found = _length(self._head, 0, end + 2)
            assert found is not None, self._head
            body = self._head[end + 4 :]
            self._answer = Answer(int(self._head[9:12]), body[:_BODY_SHOWN])
            self._missing = int(found[1]) - len(body)
            self._head = b""
        else:
            if len(self._answer.beginning) < _BODY_SHOWN:
                self._answer.beginning += data[:_BODY_SHOWN]
            self._missing -= len(data)
        if self._missing == 0:
            answer, self._answer = self._answer, None
            self._on_answer(self, answer)

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()


async def connect(
    host: str, port: int, count: int, on_answer: Callable[[Connection, Answer], None]
) -> list[Connection]:
    """Open `count` connections."""
    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(lambda: Connection(on_answer), host, port) for _ in range(count)]
    return [protocol for _, protocol in opened]
