"""What a worker does beside its chunks: send due retries, say how far it is, sweep claims. Each in its own loop."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, LiteralString

import structlog
from aiokafka.errors import KafkaError
from psycopg import AsyncConnection
from psycopg import Error as PostgresError

from processors import metrics
from processors.database import Database
from processors.offsets import EndOffsets
from processors.ports import Context, Outgoing
from processors.producer import ProduceError
from schemas import topics
from schemas.settings import Settings
from schemas.timestamps import timestamp_text

log = structlog.get_logger(__name__)

_RETRIES_EVERY_S = 0.5
_PROGRESS_EVERY_S = 1.0
_SWEEP_EVERY_S = 5.0
_STOP_S = 5.0
_RETRIES_MAX = 500
_SWEEP_MAX = 5_000
_SWEEP_PAUSE_S = 0.1
_VACUUM_AFTER = 50_000

# Longer than any statement of a gateway: one with an older snapshot sees either the claim or the event.
CLAIM_GRACE_S = 10
_GRACE_TIMEOUTS = 2
"""The same where statements may take longer, in limits of a gateway's statement."""

_DUE = """
update headrace.retries r set sent_at = now()
where r.id in (
    select id from headrace.retries
    where not_before <= now() and (sent_at is null or sent_at < now() - interval '60 seconds')
    order by not_before limit %s for update skip locked
)
returning r.program_id::text, r.record, r.attempt, r.not_before
"""

# By when rows were committed, not by what they say of it: a slow transaction's rows are older than their appearance.
# One index lookup a claim whatever the planner believes, and the rows found are deleted where they are. Each piece
# begins `after` the one before: until a vacuum the index leads to what that one has deleted, row by row.
_SWEEP_FINISHED = """
with swept as (
    delete from headrace.claims where ctid = any (array(
        select c.ctid from headrace.claims c
        cross join lateral (select e.xmin from headrace.events e where e.id = c.id limit 1) e
        where c.claimed_at >= %(after)s::timestamptz and c.claimed_at < now() - make_interval(secs => %(grace)s)
          and age(e.xmin) > age(%(seen)s::xid)
        order by c.claimed_at limit %(most)s for update of c skip locked
    )) returning claimed_at
)
select count(*), max(claimed_at) from swept
"""

# A claim without an event: its record never reached Kafka if the processors have read past the time it could have.
# The time to live stands there twice: the first is for the index, so that young claims are not looked at.
_SWEEP_LOST = """
with swept as (
    delete from headrace.claims where ctid = any (array(
        select c.ctid from headrace.claims c
        join headrace.progress p on p.topic = %(topic)s and p.kafka_partition = c.kafka_partition
        where c.claimed_at >= %(after)s::timestamptz and c.claimed_at < now() - make_interval(secs => %(ttl)s)
          and c.claimed_at < p.caught_up_at - make_interval(secs => %(ttl)s)
          and not exists (select from headrace.events e where e.id = c.id)
        order by c.claimed_at limit %(most)s for update of c skip locked
    )) returning claimed_at
)
select count(*), max(claimed_at) from swept
"""

# A plan made while the table was empty is kept: by the index whatever it has grown to, else each piece reads all of it.
_SWEEP_BY_INDEX = "select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)"


class Upkeep:
    """The worker's loops beside its chunks."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._ends = EndOffsets(settings)
        self._tasks: list[asyncio.Task[None]] = []
        self._seen: deque[tuple[float, str]] = deque()
        self._swept = 0
        self._grace_s = max(CLAIM_GRACE_S, _GRACE_TIMEOUTS * settings.database_timeout_s)

    async def start(self, context: Context) -> None:
        """Start the loops."""
        loops: list[tuple[str, float, Callable[[], Awaitable[None]]]] = [
            ("retries", _RETRIES_EVERY_S, lambda: self._send_retries(context)),
            ("progress", _PROGRESS_EVERY_S, self._say_progress),
            ("sweep", _SWEEP_EVERY_S, self._sweep),
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

    async def _sweep(self) -> None:
        seen = await self._seen_before_grace()
        if seen is not None:
            await self._sweep_all(_SWEEP_FINISHED, {"grace": self._grace_s, "seen": seen, "most": _SWEEP_MAX})
        lost = {"topic": topics.EVENTS, "ttl": self._settings.claim_ttl_s, "most": _SWEEP_MAX}
        await self._sweep_all(_SWEEP_LOST, lost)
        if self._swept >= _VACUUM_AFTER:
            # Autovacuum looks once a minute, in which a busy gateway makes a million claims.
            self._swept = 0
            await self._database.vacuum_claims()

    async def _seen_before_grace(self) -> str | None:
        """The transaction before which all had ended, so that all could see their rows, a grace ago."""

        async def oldest(connection: AsyncConnection[Any]) -> str:
            cursor = await connection.execute("select pg_snapshot_xmin(pg_current_snapshot())::xid::text")
            row = await cursor.fetchone()
            assert row is not None, "a select without a table has one row"  # noqa: S101
            return str(row[0])

        self._seen.append((time.monotonic(), await self._database.once(oldest)))
        until = time.monotonic() - self._grace_s
        while len(self._seen) > 1 and self._seen[1][0] <= until:
            self._seen.popleft()
        at, xid = self._seen[0]
        return xid if at <= until else None

    async def _sweep_all(self, statement: LiteralString, values: dict[str, Any]) -> None:
        after: Any = "-infinity"

        async def delete(connection: AsyncConnection[Any]) -> tuple[int, Any]:
            await connection.execute(_SWEEP_BY_INDEX)
            cursor = await connection.execute(statement, values | {"after": after})
            return await cursor.fetchone() or (0, None)

        swept = _SWEEP_MAX
        while swept == _SWEEP_MAX:
            swept, after = await self._database.once(delete)
            self._swept += swept
            await asyncio.sleep(_SWEEP_PAUSE_S)  # others have their turn: a large delete would show in their times


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
