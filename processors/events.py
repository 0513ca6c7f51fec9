"""Chunks of ``events`` on their way through Postgres: read, decide, handle, write; one transaction for all of them.

A transaction is safe to be done again: what was done already shows by the rows.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import NamedTuple

import msgspec
from psycopg import errors

from processors import failpoints, metrics, outbox, store
from processors.attempts import Attempted, Attempts
from processors.database import Database
from processors.handling import describe
from processors.parts import REFUSED, write_in_parts
from processors.pipeline import Owner, Plan, Repeat, decide, needs_postgres, table_owner, table_value
from processors.ports import Part
from processors.records import Arrival, BadRecord, read_records
from processors.rows import Row
from processors.written import Written
from schemas.errors import IDEMPOTENCY_CONFLICT, UNSTORABLE_EVENT
from schemas.reader import EventReader

_ROUNDS_MAX = 10

Lookup = Callable[[int, Sequence[bytes]], list[bytes | None]]


class Read(msgspec.Struct, frozen=True):
    """Chunks that are one transaction: no key stands in two of their partitions, so that offsets can be compared."""

    parts: Sequence[tuple[int, Sequence[Arrival]]]
    """The arrivals by partition."""
    bad: Sequence[BadRecord]
    progress: Sequence[store.Progress]
    """How far the chunks go."""

    @property
    def arrivals(self) -> list[Arrival]:
        """All of them, partition by partition."""
        return list(chain.from_iterable(arrivals for _, arrivals in self.parts))

    @property
    def count(self) -> int:
        """How many arrivals there are."""
        return sum(len(arrivals) for _, arrivals in self.parts)

    def progress_of(self, part: Sequence[Arrival]) -> Sequence[store.Progress]:
        """How far processing is when `part` of the arrivals is done, and those before it."""
        if 0 < len(part) < self.count:
            return store.progress_up_to(arrival.record for arrival in part)
        return self.progress

    def plus(self, other: "Read") -> "Read":
        """These chunks and, after them, those."""
        return Read([*self.parts, *other.parts], [*self.bad, *other.bad], [*self.progress, *other.progress])


class Events:
    """Processes chunks of events."""

    def __init__(self, database: Database, reader: EventReader, attempts: Attempts) -> None:
        self._database = database
        self._reader = reader
        self._attempts = attempts

    async def read(self, parts: Sequence[Part]) -> list[Read]:
        """Read the records of `parts`: what is to be one transaction, in order."""
        return _joined([await self._read(part) for part in parts])

    async def _read(self, part: Part) -> Read:
        arrivals, bad = await read_records(self._reader, part.records)
        return Read([(part.partition, arrivals)], bad, [store.progress_to(part)])

    async def process(self, read: Read, lookup: Lookup) -> Written:
        """One transaction, or several where Postgres refuses it. Waits for Postgres as long as it takes."""
        written = await write_in_parts(read.arrivals, partial(self._write, read, _known(read, lookup)))
        written.letters += read.bad
        return written

    async def _write(
        self, read: Read, owners: dict[bytes, Owner], arrivals: Sequence[Arrival], blame: Exception | None
    ) -> Written:
        part = _Part(arrivals, read.bad, read.progress_of(arrivals))
        # What an earlier part brought is new to the table, so only the whole can do without Postgres.
        known = owners if len(arrivals) == read.count and not needs_postgres(arrivals, owners) else None
        for decided_before in range(_ROUNDS_MAX):
            metrics.AGAIN.inc(min(decided_before, 1))
            try:
                return await self._database.run(partial(self._transact, part, known, blame))
            except store.RowsDifferError:
                known = None
            except errors.UniqueViolation as error:
                if error.diag.constraint_name != store.EVENTS_KEY:  # a handler's own
                    raise
                known = None
            except REFUSED as error:
                if blame is None or part.unstorable:
                    raise
                part = part.without_arrivals(error)
        where = ", ".join(f"{one.topic}[{one.partition}]" for one in read.progress)
        raise RuntimeError(f"{where}: somebody else writes the same events all the time")

    async def _transact(
        self, part: "_Part", owners: dict[bytes, Owner] | None, blame: Exception | None, connection: store.Connection
    ) -> Written:
        """One transaction, of all or a part of it. `owners` None: ask Postgres who owns what."""
        standings: dict[bytes, store.Standing] = {}
        arrivals = part.arrivals
        if owners is None:
            standings = await store.standings(connection, {arrival.event.id for arrival in arrivals})
            owners = await _owners_here(connection, standings, arrivals)
        plan = decide(arrivals, owners)
        attempted = await self._attempts.first(connection, plan.new, blame)
        now = datetime.now(UTC)  # after the handlers: a row is seen soon after the time it says
        _note_repeats(attempted, plan.repeats)
        async with store.inserting_events(connection, attempted, now):
            letters = [
                *part.unstorable,
                *map(_conflict, plan.conflicts),
                *(one.letter() for one in attempted if one.failed),
            ]
            written = _written(attempted, plan, standings, letters, now)
        older = {id_: repeat for id_, repeat in plan.repeats.items() if id_ in owners}
        await store.count_repeats(connection, older, now)
        await self._attempts.schedule(connection, attempted)
        await self._attempts.finish(connection, attempted)
        await store.add_dead_letters(connection, [*part.bad, *letters])
        await store.note_progress(connection, part.progress)
        if failpoints.ON:
            failpoints.hit(failpoints.BEFORE_COMMIT)
        return written


class _Part(NamedTuple):
    """What one transaction does."""

    arrivals: Sequence[Arrival]
    bad: Sequence[BadRecord]
    progress: Sequence[store.Progress]
    unstorable: Sequence[BadRecord] = ()

    def without_arrivals(self, error: Exception) -> "_Part":
        """The same where its arrivals cannot be stored at all, for the reason that `error` gives."""
        return self._replace(arrivals=(), unstorable=[_unstorable(one, error) for one in self.arrivals])


def _joined(reads: Sequence[Read]) -> list[Read]:
    """As few as there can be, in order: a key that stands in two partitions keeps these apart.

    Which happens where a client has another partitioner than the others.
    """
    joined: list[Read] = []
    keys: set[bytes] = set()
    for read in reads:
        own = {arrival.event.id for arrival in read.arrivals} if len(reads) > 1 else keys
        if joined and keys.isdisjoint(own):
            joined[-1] = joined[-1].plus(read)
            keys |= own
        else:
            joined.append(read)
            keys = own
    return joined


def _known(read: Read, lookup: Lookup) -> dict[bytes, Owner]:
    """Who owns the arrivals' keys, as far as the table knows."""
    owners = {}
    for partition, arrivals in read.parts:
        ids = [arrival.event.id for arrival in arrivals]
        for id_, value in zip(ids, lookup(partition, ids), strict=True):
            if value is not None:
                owners[id_] = table_owner(value)
    return owners


async def _owners_here(
    connection: store.Connection, standings: Mapping[bytes, store.Standing], arrivals: Sequence[Arrival]
) -> dict[bytes, Owner]:
    """The owners as offsets of the arrivals' partitions see them.

    A client with another partitioner may have put the owner's record into another partition, whose offsets tell nothing
    here: then what this partition has had processed is counted.
    """
    places = {one.event.id: (one.record.topic, one.record.partition) for one in arrivals if one.event.id in standings}
    foreign = {places[id_] for id_, standing in standings.items() if standing.partition != places[id_][1]}
    processed = await store.processed_before(connection, sorted(foreign)) if foreign else {}
    return {
        id_: standing.owner._replace(offset=-1, counted_offset=processed.get(places[id_], 0) - 1)
        if standing.partition != places[id_][1]
        else standing.owner
        for id_, standing in standings.items()
    }


def _note_repeats(rows: Sequence[Row], repeats: Mapping[bytes, Repeat]) -> None:
    """Count in new rows what repeats them already."""
    if not repeats:
        return
    for row in rows:
        repeat = repeats.get(row.arrival.event.id)
        if repeat is not None:
            row.counted_offset = repeat.counted_offset
            row.duplicates = repeat.duplicates
            if repeat.conflicts:
                row.conflicts = msgspec.json.encode(store.conflict_list(repeat.conflicts))


def _written(
    attempted: Sequence[Attempted],
    plan: Plan,
    standings: dict[bytes, store.Standing],
    letters: list[BadRecord],
    now: datetime,
) -> Written:
    written = outbox.written(attempted, letters, now)
    for repeat in plan.repeats.values():
        written.duplicates += repeat.duplicates
        written.conflicts += len(repeat.conflicts)
    entries = written.entries
    for arrival in chain(plan.new, plan.replayed):
        event = arrival.event
        entry = event.id, table_value(event.fingerprint, arrival.offset)
        partition = arrival.record.partition
        if partition in entries:
            entries[partition].append(entry)
        else:
            entries[partition] = [entry]
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
