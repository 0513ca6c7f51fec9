"""What a worker does beside its chunks: send due retries, say how far it is, end claims. Each in its own loop."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import structlog
from aiokafka.errors import KafkaError
from psycopg import AsyncConnection
from psycopg import Error as PostgresError

from processors import metrics
from processors.claims import Claims
from processors.database import Database
from processors.offsets import EndOffsets
from processors.ports import Context, Entries, Outgoing
from processors.producer import ProduceError
from schemas import topics
from schemas.settings import Settings
from schemas.timestamps import timestamp_text

log = structlog.get_logger(__name__)

_RETRIES_EVERY_S = 0.5
_PROGRESS_EVERY_S = 1.0
_END_CLAIMS_EVERY_S = 1.0
_SWEEP_LOST_EVERY_S = 5.0
_SWEEP_FINISHED_EVERY_S = 30.0
_STOP_S = 5.0
_RETRIES_MAX = 500

_DUE = """
update headrace.retries r set sent_at = now()
where r.id in (
    select id from headrace.retries
    where not_before <= now() and (sent_at is null or sent_at < now() - interval '60 seconds')
    order by not_before limit %s for update skip locked
)
returning r.program_id::text, r.record, r.attempt, r.not_before
"""


class Upkeep:
    """The worker's loops beside its chunks."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._ends = EndOffsets(settings)
        self._tasks: list[asyncio.Task[None]] = []
        self._claims = Claims(settings, database)

    def committed(self, entries: Entries) -> None:
        """Note that these were committed just now."""
        self._claims.committed(entries)

    async def start(self, context: Context) -> None:
        """Start the loops."""
        loops: list[tuple[str, float, Callable[[], Awaitable[None]]]] = [
            ("retries", _RETRIES_EVERY_S, lambda: self._send_retries(context)),
            ("progress", _PROGRESS_EVERY_S, self._say_progress),
            ("claims", _END_CLAIMS_EVERY_S, self._claims.end),
            ("lost claims", _SWEEP_LOST_EVERY_S, self._claims.sweep_lost),
            ("finished claims", _SWEEP_FINISHED_EVERY_S, self._claims.sweep_finished),
        ]
        self._tasks = [asyncio.create_task(_every(name, pause_s, work), name=name) for name, pause_s, work in loops]

    async def stop(self) -> None:
        """End the loops; what they were doing is done again by whoever comes next."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_S)
        await self._ends.stop()

    async def _send_retries(self, context: Context) -> None:
        async def take(connection: AsyncConnection[Any]) -> list[Outgoing]:
            cursor = await connection.execute(_DUE, (_RETRIES_MAX,))
            due = [_retry_record(*row) for row in await cursor.fetchall()]
            # Sent before the commit: if either fails the row is due again, and an attempt sent twice counts once.
            await context.producer.send_many(topics.RETRY, due)
            return due

        await self._database.once(take)

    async def _say_progress(self) -> None:
        async def now(connection: AsyncConnection[Any]) -> datetime:
            cursor = await connection.execute("select clock_timestamp()")
            row = await cursor.fetchone()
            assert row is not None, "a select without a table has one row"  # noqa: S101
            return row[0]  # type: ignore[no-any-return]

        asked_at = await self._database.once(now)
        ends = await self._ends.ask()

        async def write(connection: AsyncConnection[Any]) -> None:
            for (topic, partition), end in sorted(ends.items()):  # in the order of all who write here
                # An empty partition has no row yet: there is nothing in it that is not processed.
                await connection.execute(
                    """insert into headrace.progress as p
                           (topic, kafka_partition, next_offset, end_offset, caught_up_at, updated_at)
                       values (%(topic)s, %(partition)s, 0, %(end)s,
                               case when %(end)s = 0 then %(at)s else '-infinity'::timestamptz end, now())
                       on conflict (topic, kafka_partition) do update
                       set end_offset = excluded.end_offset, updated_at = now(),
                           caught_up_at = case when p.next_offset >= excluded.end_offset
                                               then greatest(p.caught_up_at, %(at)s) else p.caught_up_at end""",
                    {"topic": topic, "partition": partition, "end": end, "at": asked_at},
                )

        await self._database.once(write)


def _retry_record(program_id: str, record: bytes, attempt: int, not_before: datetime) -> Outgoing:
    headers = [("attempt", str(attempt).encode()), ("not-before", timestamp_text(not_before).encode())]
    return Outgoing(program_id.encode(), record, headers)


async def _every(name: str, pause_s: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except (PostgresError, ProduceError, KafkaError, TimeoutError) as error:
            metrics.UPKEEP_FAILURES.labels(name).inc()
            log.warning("upkeep waits", loop=name, reason=f"{type(error).__name__}: {error}".strip())
        except Exception:  # a loop that ends would never be missed: nothing waits for it
            metrics.UPKEEP_FAILURES.labels(name).inc()
            log.exception("upkeep failed", loop=name)
        await asyncio.sleep(pause_s)
