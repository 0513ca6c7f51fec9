"""`?wait=`: requests that wait until an event is final, at the cost of one statement for all of them.

One poller per process asks for every waited-for event at once; it rests while nobody waits. It polls fast while
somebody has just begun to wait and slows down as the youngest waiter gets older.
"""

import asyncio
from time import monotonic

import structlog

from gateway import metrics
from gateway.database import DATABASE_FAULTS, Database
from gateway.problems import unavailable

WAIT_S_MAX = 30.0
WAITERS_MAX = 1_000

_POLL_S_MIN = 0.02
_POLL_S_MAX = 0.5
_POLL_SHARE = 0.1  # a waiter learns of its event after at most this share of the time it has waited anyway
_TIMEOUT_S = 2.0
_AFTER_FAULT_S = 0.5

_SELECT = "select id::text from headrace.events where id = any(%s::uuid[]) and status in ('COMPLETED', 'FAILED')"

_log = structlog.get_logger("headrace.gateway")


class Waiting:
    """The requests of this process that wait; `count` is how many there are."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self.count = 0
        self._youngest_at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def until_final(self, event_id: str, seconds: float) -> None:
        """Return when the event (UUID as lower-case text) is final, or after `seconds`.

        Raises ApiError `unavailable` where too many requests wait already.
        """
        if self.count >= WAITERS_MAX:
            raise unavailable(f"more than {WAITERS_MAX} requests wait for events already")
        future = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(event_id, set()).add(future)
        self.count += 1
        self._youngest_at = monotonic()
        metrics.WAITING.inc()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll(), name="waiting-poll")
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            pass  # the answer then shows the status as it is
        finally:
            self._forget(event_id, future)

    async def stop(self) -> None:
        """Let all waiters go, with the status as it is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._wake(list(self._waiters))

    def _forget(self, event_id: str, future: asyncio.Future[None]) -> None:
        self.count -= 1
        metrics.WAITING.dec()
        same_event = self._waiters.get(event_id)
        if same_event is not None:
            same_event.discard(future)
            if not same_event:
                del self._waiters[event_id]

    async def _poll(self) -> None:
        while self._waiters:
            age = monotonic() - self._youngest_at
            await asyncio.sleep(min(max(_POLL_S_MIN, age * _POLL_SHARE), _POLL_S_MAX))
            try:
                rows = await self._database.rows(_SELECT, [list(self._waiters)], timeout_s=_TIMEOUT_S)
            except DATABASE_FAULTS as error:
                _log.warning("waited-for events could not be looked up", reason=" ".join(str(error).split()))
                await asyncio.sleep(_AFTER_FAULT_S)
                continue
            self._wake([event_id for (event_id,) in rows])

    def _wake(self, event_ids: list[str]) -> None:
        for event_id in event_ids:
            for future in self._waiters.get(event_id, ()):
                if not future.done():
                    future.set_result(None)
