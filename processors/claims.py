"""How claims end: each a grace after its event was committed, so that no statement of a gateway misses both.

The worker that committed an event ends its claim, by id: it need not look whether the event is there. What it did not
come to, having been killed before, say, a sweep finds.
"""

import asyncio
import time
from collections import deque
from functools import partial
from itertools import chain
from typing import Any, LiteralString

from psycopg import AsyncConnection

from processors.database import Database
from processors.ports import Entries
from processors.store import uuid_array
from schemas import topics
from schemas.settings import Settings

# Longer than any statement of a gateway: one with an older snapshot sees either the claim or the event.
CLAIM_GRACE_S = 10
_GRACE_TIMEOUTS = 2
"""The same where statements may take longer, in limits of a gateway's statement."""
_REMEMBERED_MAX = 1_000_000
"""Claims to be ended that a worker keeps in mind, 16 bytes each."""
_STATEMENT_CLAIMS_MAX = 5_000
_PAUSE_S = 0.05
_VACUUM_AFTER = 50_000
_ID_BYTES = 16

# The index gives them in the order of ids, in which gateways lock claims: nobody waits in a circle.
_END = "delete from headrace.claims where id = any (%s::uuid[])"

# By when rows were committed, not by what they say of it: a slow transaction's rows are older than their appearance.
# One index lookup a claim whatever the planner believes, and the rows found are deleted where they are. Each piece
# begins `after` the one before: until a vacuum the index leads to what that one has deleted, row by row.
SWEEP_FINISHED: LiteralString = """
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
SWEEP_LOST: LiteralString = """
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
BY_INDEX = "select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)"


class Claims:
    """The claims whose events this worker has committed, and those that nobody ended."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._grace_s = max(CLAIM_GRACE_S, _GRACE_TIMEOUTS * settings.database_timeout_s)
        self._ttl_s = settings.claim_ttl_s
        self._committed: deque[tuple[float, bytes]] = deque()  # when, and the ids, oldest first
        self._remembered = 0
        self._seen: deque[tuple[float, str]] = deque()
        self._ended = 0

    def committed(self, entries: Entries) -> None:
        """Remember that these were committed just now."""
        ids = b"".join([id_ for id_, _ in chain.from_iterable(entries.values())])
        if not ids:
            return
        self._committed.append((time.monotonic(), ids))
        self._remembered += len(ids)
        while self._remembered > _REMEMBERED_MAX * _ID_BYTES:
            self._forget_oldest()

    async def end(self) -> None:
        """End the claims of what was committed a grace ago. Where that fails it is left to :meth:`sweep_finished`.

        Raises what psycopg raises.
        """
        until = time.monotonic() - self._grace_s
        while ids := self._take(until):
            self._ended += await self._database.once(partial(_end, ids))
            await asyncio.sleep(_PAUSE_S)
        if self._ended >= _VACUUM_AFTER:
            # Autovacuum looks once a minute, in which a busy gateway makes a million claims.
            self._ended = 0
            await self._database.vacuum_claims()

    async def sweep_finished(self) -> None:
        """End the claims of events that stand for a grace, and that nobody has ended. Raises what psycopg raises."""
        seen = await self._seen_before_grace()
        if seen is not None:
            await self._sweep(SWEEP_FINISHED, {"grace": self._grace_s, "seen": seen})

    async def sweep_lost(self) -> None:
        """End the claims whose record never came. Raises what psycopg raises."""
        await self._sweep(SWEEP_LOST, {"topic": topics.EVENTS, "ttl": self._ttl_s})

    def _take(self, until: float) -> str:
        """Ids committed before `until`, as an array: as many bundles as a statement takes, one at least; or nothing."""
        taken: list[bytes] = []
        size = 0
        while self._committed and self._committed[0][0] <= until:
            size += len(self._committed[0][1])
            if taken and size > _STATEMENT_CLAIMS_MAX * _ID_BYTES:
                break
            taken.append(self._forget_oldest())
        ids = b"".join(taken)
        return uuid_array([ids[at : at + _ID_BYTES] for at in range(0, len(ids), _ID_BYTES)]) if ids else ""

    def _forget_oldest(self) -> bytes:
        _, ids = self._committed.popleft()
        self._remembered -= len(ids)
        return ids

    async def _seen_before_grace(self) -> str | None:
        """The transaction before which all had ended, so that all could see their rows, a grace ago."""
        self._seen.append((time.monotonic(), await self._database.once(_oldest_transaction)))
        until = time.monotonic() - self._grace_s
        while len(self._seen) > 1 and self._seen[1][0] <= until:
            self._seen.popleft()
        at, xid = self._seen[0]
        return xid if at <= until else None

    async def _sweep(self, statement: LiteralString, values: dict[str, Any]) -> None:
        after: Any = "-infinity"

        async def delete(connection: AsyncConnection[Any]) -> tuple[int, Any]:
            await connection.execute(BY_INDEX)
            cursor = await connection.execute(statement, values | {"most": _STATEMENT_CLAIMS_MAX, "after": after})
            return await cursor.fetchone() or (0, None)

        swept = _STATEMENT_CLAIMS_MAX
        while swept == _STATEMENT_CLAIMS_MAX:
            swept, after = await self._database.once(delete)
            self._ended += swept
            await asyncio.sleep(_PAUSE_S)  # others have their turn: a large delete would show in their times


async def _end(ids: str, connection: AsyncConnection[Any]) -> int:
    await connection.execute(BY_INDEX)
    return (await connection.execute(_END, (ids,))).rowcount


async def _oldest_transaction(connection: AsyncConnection[Any]) -> str:
    cursor = await connection.execute("select pg_snapshot_xmin(pg_current_snapshot())::xid::text")
    row = await cursor.fetchone()
    assert row is not None, "a select without a table has one row"  # noqa: S101
    return str(row[0])
