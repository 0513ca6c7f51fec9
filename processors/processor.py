"""A chunk's way through Postgres: read, decide, handle, write; one transaction, safe to be done again.

The order is: Postgres commits; statuses and dead letters go to Kafka; the caller writes the dedupe table and then
acknowledges the chunk. Whatever a crash cuts off is done again from the log, and what was done already shows by the rows.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import structlog
from psycopg import DataError, errors

from processors import outbox, store
from processors.attempts import Attempted, Attempts
from processors.database import Database
from processors.handling import Runner, load_handlers
from processors.pipeline import Owner, Plan, decide, needs_postgres, table_owner, table_value
from processors.ports import Context, Entry
from processors.records import Arrival, BadRecord, Record, read_record
from processors.retries import Retries
from processors.rows import Row
from processors.upkeep import Upkeep
from processors.written import Written
from schemas import topics
from schemas.errors import IDEMPOTENCY_CONFLICT, UNSTORABLE_EVENT
from schemas.event import EventReader
from schemas.settings import Settings

log = structlog.get_logger(__name__)

_ROUNDS_MAX = 10


class _Differs(Exception):  # noqa: N818 - undoes the transaction; never leaves this module
    """A row is not as the dedupe table led us to believe."""


class Processor:
    """Processes the chunks of one worker; see :class:`processors.ports.Processor`."""

    def __init__(self, settings: Settings) -> None:
        self._database = Database(settings)
        self._reader = EventReader(settings.max_event_bytes)
        self._attempts = Attempts(Runner(load_handlers(settings.handlers), settings.handler_timeout_s))
        self._retries = Retries(self._database, self._reader, self._attempts)
        self._upkeep = Upkeep(settings, self._database)
        self._context: Context | None = None

    async def start(self, context: Context) -> None:
        """Connect to Postgres, waiting for it if need be, and begin the upkeep."""
        self._context = context
        self._database.alive = context.alive
        await self._database.start()
        await self._upkeep.start(context)

    async def stop(self) -> None:
        """End the upkeep and the connections."""
        await self._upkeep.stop()
        await self._database.stop()

    async def process_chunk(self, topic: str, partition: int, records: Sequence[Record]) -> list[Entry]:
        """See :class:`processors.ports.Processor`. Waits for Postgres as long as it takes."""
        context = self._context
        assert context is not None, "start() comes first"  # noqa: S101
        if topic == topics.RETRY:
            written = await self._retries.process(partition, records)
        else:
            written = await self._process_events(topic, partition, records, context.lookup)
        await context.producer.send_many(topics.STATUS, written.statuses)
        await context.producer.send_many(topics.DEAD_LETTERS, outbox.dead_letter_records(written.letters))
        return written.entries

    async def _process_events(
        self, topic: str, partition: int, records: Sequence[Record], lookup: Callable[..., list[bytes | None]]
    ) -> Written:
        read = [read_record(self._reader, record) for record in records]
        arrivals = [item for item in read if isinstance(item, Arrival)]
        bad = [item for item in read if isinstance(item, BadRecord)]
        values = lookup(partition, [arrival.event.id for arrival in arrivals])
        owners = {
            arrival.event.id: table_owner(value)
            for arrival, value in zip(arrivals, values, strict=True)
            if value is not None
        }
        chunk = _Chunk(topic, partition, records[-1])
        return await self._write_halving(chunk, arrivals, owners, bad)

    async def _write_halving(
        self, chunk: "_Chunk", arrivals: list[Arrival], owners: dict[bytes, Owner], bad: list[BadRecord]
    ) -> Written:
        """Write the arrivals; what Postgres cannot store is found by halving, and becomes a dead letter."""
        try:
            return await self._write(chunk, arrivals, owners, bad)
        except DataError as error:
            if len(arrivals) == 0:
                raise
            log.warning("postgres cannot store an event", events=len(arrivals), reason=str(error))
            if len(arrivals) == 1:
                return await self._write(chunk, [], {}, [*bad, _unstorable(arrivals[0], error)])
        middle = len(arrivals) // 2
        half = msgspec.structs.replace(chunk, last=arrivals[middle - 1].record)
        written = await self._write_halving(half, arrivals[:middle], owners, bad)
        # What the first half brought is new to the table, so the second half asks Postgres.
        written.add(await self._write_halving(chunk, arrivals[middle:], {}, []))
        return written

    async def _write(
        self, chunk: "_Chunk", arrivals: list[Arrival], owners: dict[bytes, Owner], bad: list[BadRecord]
    ) -> Written:
        ask = needs_postgres(arrivals, owners)
        for _ in range(_ROUNDS_MAX):
            try:
                known = None if ask else owners
                return await self._database.run(partial(self._transact, chunk, arrivals, known, bad))
            except (errors.UniqueViolation, _Differs):
                ask = True
        raise RuntimeError(f"{chunk.topic}[{chunk.partition}]: somebody else writes the same events all the time")

    async def _transact(
        self,
        chunk: "_Chunk",
        arrivals: list[Arrival],
        owners: dict[bytes, Owner] | None,
        bad: list[BadRecord],
        connection: store.Connection,
    ) -> Written:
        """The chunk's one transaction. `owners` None: ask Postgres who owns what."""
        now = datetime.now(UTC)
        standings: dict[bytes, store.Standing] = {}
        if owners is None:
            standings = await store.standings(connection, {arrival.event.id for arrival in arrivals})
            counted = await store.processed_before(connection, chunk.topic, chunk.partition) - 1
            owners = {id_: _owner_here(standing, chunk.partition, counted) for id_, standing in standings.items()}
        plan = decide(arrivals, owners)
        attempted = await self._attempts.first(connection, plan.new)
        rows = [_row(one, plan) for one in attempted]
        await store.insert_events(connection, rows, chunk.partition, now)
        new = {arrival.event.id for arrival in plan.new}
        older = {id_: repeat for id_, repeat in plan.repeats.items() if id_ not in new}
        if not await store.count_repeats(connection, older, chunk.partition, now):
            raise _Differs
        await self._attempts.schedule(connection, attempted, chunk.partition)
        await self._attempts.finish(connection, attempted)
        letters = [*bad, *map(_conflict, plan.conflicts), *(one.letter() for one in attempted if one.failed)]
        await store.add_dead_letters(connection, letters)
        await store.note_progress(connection, chunk.topic, chunk.partition, chunk.last)
        return _written(attempted, plan, standings, letters, now)


class _Chunk(msgspec.Struct, frozen=True):
    topic: str
    partition: int
    last: Record


def _owner_here(standing: store.Standing, partition: int, counted_offset: int) -> Owner:
    """The owner as offsets of `partition` see it.

    A client with another partitioner may have put the owner's record into another partition, whose offsets tell nothing
    here: then what this partition has had processed, up to `counted_offset`, is counted.
    """
    if standing.partition == partition:
        return standing.owner
    return standing.owner._replace(offset=-1, counted_offset=counted_offset)


def _row(one: Attempted, plan: Plan) -> Row:
    arrival = one.job_arrival
    repeat = plan.repeats.get(arrival.event.id)
    row = Row(
        arrival,
        one.status,
        one.status in store.FINAL,
        arrival.offset,
        error_code=one.error_code,
        error_message=one.error_message,
        result=one.result,
    )
    if repeat is not None:
        row.counted_offset = repeat.counted_offset
        row.duplicates = repeat.duplicates
        if repeat.conflicts:
            row.conflicts = store.encode_json(store.conflict_list(repeat.conflicts[: store.CONFLICTS_KEPT_MAX]))
    return row


def _written(
    attempted: Sequence[Attempted],
    plan: Plan,
    standings: dict[bytes, store.Standing],
    letters: list[BadRecord],
    now: datetime,
) -> Written:
    processed = outbox.processed_text(now)
    statuses = [
        outbox.status_record(one.job_arrival, one.status, one.error_code, processed)
        for one in attempted
        if one.status in store.FINAL
    ]
    entries = [
        (arrival.event.id, table_value(arrival.event.fingerprint, arrival.offset))
        for arrival in (*plan.new, *plan.replayed)
    ]
    for arrival in plan.replayed:
        standing = standings[arrival.event.id]
        if standing.status in store.FINAL:
            text = outbox.processed_text(standing.processed_at)
            statuses.append(outbox.status_record(arrival, standing.status, standing.error_code, text))
    return Written(entries, statuses, letters)


def _conflict(arrival: Arrival) -> BadRecord:
    event = arrival.event
    reason = "the idempotency_key belongs to an event with another payload"
    return BadRecord(IDEMPOTENCY_CONFLICT.code, reason, arrival.record, event.program.packed, event.id)


def _unstorable(arrival: Arrival, error: Any) -> BadRecord:
    event = arrival.event
    return BadRecord(UNSTORABLE_EVENT, str(error), arrival.record, event.program.packed, event.id)

