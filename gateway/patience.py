"""Waiting for Kafka with one time limit for all requests: they share a timer, and cost no timer each."""

import asyncio
from collections import deque
from collections.abc import Collection

from gateway.outgoing import Batch, end, when_settled


class Patience:
    """Waits for batches on behalf of requests, `timeout_s` at most for each."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()  # in the order in which they give up
        self._timer: asyncio.TimerHandle | None = None

    async def settled(self, batches: Collection[Batch]) -> None:
        """Return when each batch is acknowledged or lost, or when the time is over."""
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        when_settled(batches, over)
        waiting = self._waiting
        while waiting and waiting[0][1].done():
            waiting.popleft()
        waiting.append((loop.time() + self._timeout_s, over))
        if self._timer is None:
            self._timer = loop.call_later(self._timeout_s, self._give_up)
        await over

    def _give_up(self) -> None:
        """End the waiting whose time is over, and look again when that of the next is."""
        loop = asyncio.get_running_loop()
        waiting = self._waiting
        while waiting and (waiting[0][1].done() or waiting[0][0] <= loop.time()):
            end(waiting.popleft()[1])
        self._timer = loop.call_at(waiting[0][0], self._give_up) if waiting else None
