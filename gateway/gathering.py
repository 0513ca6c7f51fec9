"""Where many events come, requests wait for each other a little, so that more of them share what a round costs.

A claim statement, and a round to Kafka with a batch for each partition, cost gateway, Postgres and Kafka about the same
whatever is in them. While few events come every request goes at once. From :data:`BUSY_EVENTS_PER_S` on a request waits
until enough events have gathered, until nobody is left to wait for, or until :data:`PAUSE_S` is over.
"""

import asyncio
from typing import NamedTuple

BUSY_EVENTS_PER_S = 4_000
PAUSE_S = 0.04
"""Longest wait of a request."""
ENOUGH_EVENTS = 500
"""With so many, what a round costs is a small part of what its events do."""
_WINDOW_S = 0.25


class _Window(NamedTuple):
    """What a stretch of time has seen: the events that came, and the most requests in flight at once."""

    begun_at: float
    events: int
    requests_max: int


_NOTHING = _Window(0.0, 0, 0)


class Gathering:
    """The place where requests gather."""

    def __init__(self) -> None:
        self._before = self._now = _NOTHING  # the last window that is over, and the one that is not
        self._requests = 0  # in flight
        self._waiting_requests = self._waiting_events = 0
        self._gate: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def join(self, events: int) -> None:
        """Wait for others, if that pays. From here to :meth:`leave` the request is in flight."""
        self._requests += 1
        loop = asyncio.get_running_loop()
        self._count(loop.time(), events)
        if self._gate is None:
            if self._before.events < BUSY_EVENTS_PER_S * _WINDOW_S:
                return
            self._gate = asyncio.Event()
            self._timer = loop.call_later(PAUSE_S, self._open)
        self._waiting_requests += 1
        self._waiting_events += events
        everybody = max(self._before.requests_max, self._now.requests_max)
        gate = self._gate
        if self._waiting_events >= ENOUGH_EVENTS or self._waiting_requests >= everybody:
            self._open()
        await gate.wait()

    def leave(self) -> None:
        """The request has its answer."""
        self._requests -= 1

    def _count(self, now: float, events: int) -> None:
        age_s = now - self._now.begun_at
        if age_s >= _WINDOW_S:
            self._before = self._now if age_s < 2 * _WINDOW_S else _NOTHING
            self._now = _Window(now, 0, 0)
        _, before, requests_max = self._now
        self._now = _Window(self._now.begun_at, before + events, max(requests_max, self._requests))

    def _open(self) -> None:
        """Let go who waits, and have the next begin to gather anew."""
        if self._timer is not None:
            self._timer.cancel()
        gate, self._gate, self._timer = self._gate, None, None
        self._waiting_requests = self._waiting_events = 0
        if gate is not None:
            gate.set()
