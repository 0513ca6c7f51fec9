"""When events were COMPLETED, as a consumer of ``events.status`` sees it: those records are written after the commit.

The moment in the row itself (`processed_at`) is taken before the commit, so it would say too little.
"""

import asyncio
import contextlib
import time
from array import array

from aiokafka import AIOKafkaConsumer

from schemas import topics
from tests.bench.payloads import number_in

_POLL_MS = 500
_DRAIN_POLL_S = 0.01


class Statuses:
    """Follows the status topic from its end. Times are from the moment that :meth:`expect` was told."""

    def __init__(self, kafka: str) -> None:
        self._consumer = AIOKafkaConsumer(
            topics.STATUS, bootstrap_servers=kafka, auto_offset_reset="latest", check_crcs=False
        )
        self._following: asyncio.Task[None] | None = None
        self._first = 0
        self._intended: array[float] = array("d")
        self.times_s: array[float] = array("d")

    async def start(self) -> None:
        """Stand at the end of the topic, and follow it."""
        await self._consumer.start()
        await self._consumer.seek_to_end()
        for partition in self._consumer.assignment():
            await self._consumer.position(partition)
        self._following = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Leave."""
        if self._following:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        await self._consumer.stop()

    def restart(self, first: int) -> None:
        """From now on count events from number `first` on."""
        self._first = first
        self._intended = array("d")
        self.times_s = array("d")

    def expect(self, count: int, intended: float) -> None:
        """The next `count` events were to be sent at `intended`."""
        self._intended.extend([intended] * count)

    async def drain(self, events: int, timeout_s: float) -> int:
        """Wait for the status of `events` events; how many have none when the time is over."""
        deadline = time.perf_counter() + timeout_s
        while len(self.times_s) < events and time.perf_counter() < deadline:  # noqa: ASYNC110 - it only ends an order
            await asyncio.sleep(_DRAIN_POLL_S)
        return max(0, events - len(self.times_s))

    async def _follow(self) -> None:
        while True:
            found = await self._consumer.getmany(timeout_ms=_POLL_MS)
            now = time.perf_counter()
            for records in found.values():
                for record in records:
                    self._note(record.value or b"", now)

    def _note(self, value: bytes, now: float) -> None:
        number = number_in(value)
        if number is None:
            return
        index = number - self._first
        if 0 <= index < len(self._intended) and self._intended[index]:
            if b'"COMPLETED"' in value:
                self.times_s.append(now - self._intended[index])
            self._intended[index] = 0.0  # a status can be told twice
