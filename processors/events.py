"""A chunk's way through Postgres: read, decide, handle, write; one transaction, safe to be done again.

The order is: Postgres commits; statuses and dead letters go to Kafka; the caller writes the dedupe table and then
acknowledges the chunk. Whatever a crash cuts off is done again from the log; what was done already shows by the rows.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec
from psycopg import errors

from processors import failpoints, outbox, store
from processors.attempts import Attempted, Attempts
from processors.database import Database
from processors.handling import describe, load_handlers
from processors.parts import REFUSED, write_in_parts
from processors.pipeline import Owner, Plan, decide, needs_postgres, table_owner, table_value
from processors.ports import Context, Entry
from processors.records import Arrival, BadRecord, Record, read_record
from processors.retries import Retries
from processors.rows import Row
from processors.runner import Runner
from processors.upkeep import Upkeep
from processors.written import Written
from schemas import topics
from schemas.errors import IDEMPOTENCY_CONFLICT, UNSTORABLE_EVENT
from schemas.event import EventReader
from schemas.settings import Settings

_ROUNDS_MAX = 10


class Processor:
    """Processes the chunks of one worker; see :class:`processors.ports.Processor`."""

    def __init__(self, settings: Settings) -> None:
        self._database = Database(settings)
        self._reader = EventReader(settings.max_event_bytes)
        self._runner = Runner(load_handlers(settings.handlers), settings.handler_timeout_s)
        self._attempts = Attempts(self._runner)
        self._retries = Retries(self._database, self._reader, self._attempts)
        self._upkeep = Upkeep(settings, self._database)
        self._context: Context | None = None

    async def start(self, context: Context) -> None:
        """Connect to Postgres, waiting for it if need be, and begin the upkeep."""
        self._context = context
        self._database.alive = self._runner.alive = context.alive
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
        if not records:
            return []
        if topic == topics.RETRY:
            written = await self._retries.process(partition, records)
        else:
            written = await self._process_events(topic, partition, records, context.lookup)
        if failpoints.ON:
            failpoints.hit(failpoints.AFTER_COMMIT)
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
        chunk = _Chunk(topic, partition, arrivals, bad, records[-1])
        written = await write_in_parts(arrivals, partial(self._write, chunk, owners))
        written.letters += bad
        return written

    async def _write(
        self, chunk: "_Chunk", owners: dict[bytes, Owner], arrivals: Sequence[Arrival], blame: Exception | None
    ) -> Written:
        # What an earlier part brought is new to the table, so only the whole can do without Postgres.
        known = owners if len(arrivals) == len(chunk.arrivals) and not needs_postgres(arrivals, owners) else None
        for _ in range(_ROUNDS_MAX):
            try:
                return await self._database.run(partial(self._transact, chunk, known, arrivals, blame))
            except store.RowsDifferError:
                known = None
            except errors.UniqueViolation as error:
                if error.diag.constraint_name != store.EVENTS_KEY:  # a handler's own
                    raise
                known = None
            except REFUSED as error:
                if blame is None or chunk.unstorable:
                    raise
                chunk = msgspec.structs.replace(chunk, unstorable=[_unstorable(one, error) for one in arrivals])
                arrivals = ()
        raise RuntimeError(f"{chunk.topic}[{chunk.partition}]: somebody else writes the same events all the time")

    async def _transact(
        self,
        chunk: "_Chunk",
        owners: dict[bytes, Owner] | None,
        arrivals: Sequence[Arrival],
        blame: Exception | None,
        connection: store.Connection,
    ) -> Written:
        """One transaction, of the chunk or a part of it. `owners` None: ask Postgres who owns what."""
        standings: dict[bytes, store.Standing] = {}
        if owners is None:
            standings = await store.standings(connection, {arrival.event.id for arrival in arrivals})
            counted = await store.processed_before(connection, chunk.topic, chunk.partition) - 1
            owners = {id_: _owner_here(standing, chunk.partition, counted) for id_, standing in standings.items()}
        plan = decide(arrivals, owners)
        attempted = await self._attempts.first(connection, plan.new, blame)
        now = datetime.now(UTC)  # after the handlers: a row is seen soon after the time it says
        await store.insert_events(connection, [_row(one, plan) for one in attempted], chunk.partition, now)
        new = {arrival.event.id for arrival in plan.new}
        older = {id_: repeat for id_, repeat in plan.repeats.items() if id_ not in new}
        await store.count_repeats(connection, older, chunk.partition, now)
        await self._attempts.schedule(connection, attempted, chunk.partition)
        await self._attempts.finish(connection, attempted)
        letters = [
            *chunk.unstorable,
            *map(_conflict, plan.conflicts),
            *(one.letter() for one in attempted if one.failed),
        ]
        await store.add_dead_letters(connection, [*chunk.bad, *letters])
        await store.note_progress(connection, chunk.topic, chunk.partition, chunk.last_of(arrivals))
        if failpoints.ON:
            failpoints.hit(failpoints.BEFORE_COMMIT)
        return _written(attempted, plan, standings, letters, now)


class _Chunk(msgspec.Struct, frozen=True):
    topic: str
    partition: int
    arrivals: Sequence[Arrival]
    bad: Sequence[BadRecord]
    last: Record
    unstorable: Sequence[BadRecord] = ()

    def last_of(self, part: Sequence[Arrival]) -> Record:
        """The last record that is done with when `part` of the arrivals is."""
        return part[-1].record if 0 < len(part) < len(self.arrivals) else self.last


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
            row.conflicts = msgspec.json.encode(store.conflict_list(repeat.conflicts))
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
    written = Written(entries, statuses, letters)
    for arrival in plan.replayed:
        outbox.tell_again(written, arrival, standings[arrival.event.id])
    return written


def _conflict(arrival: Arrival) -> BadRecord:
    event = arrival.event
    reason = "the idempotency_key belongs to an event with another payload"
    return BadRecord(IDEMPOTENCY_CONFLICT.code, reason, arrival.record, event.program.packed, event.id)


def _unstorable(arrival: Arrival, error: Exception) -> BadRecord:
    event = arrival.event
    return BadRecord(UNSTORABLE_EVENT, describe(error), arrival.record, event.program.packed, event.id)
