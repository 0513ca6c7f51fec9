"""What the processors say to Postgres: one statement a function, each inside the chunk's transaction."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection, OperationalError, errors
from psycopg.types.json import Jsonb

from processors.encoding import event_microseconds, instant
from processors.handling import storable_text
from processors.pipeline import Owner, Repeat
from processors.ports import Part, Record
from processors.records import Arrival, BadRecord, record_time
from processors.rows import COPY, Row, encode_rows
from schemas.identity import uuid_text
from schemas.timestamps import timestamp_text

Connection = AsyncConnection[Any]

EVENTS_KEY = "events_pkey"
"""Name of the constraint that is the last judge."""

CONFLICTS_KEPT_MAX = 100
"""Conflicts that one event's row keeps; each is among the dead letters all the same."""


class NotMigratedError(OperationalError):
    """The database is older than this version, or closed to it. No event is to blame: it is waited for."""


class RowsDifferError(Exception):
    """Rows are not as the caller believed: the transaction must be undone, and what it does decided again."""


class Standing(NamedTuple):
    """What Postgres knows of an event: who owns it, from which partition, and how far its processing is."""

    owner: Owner
    partition: int
    status: str
    attempts: int
    error_code: str | None
    error_message: str | None
    processed_at: datetime | None
    received_at: datetime
    failed_before: bool


class Ending(NamedTuple):
    """What an attempt of ``events.retry`` made of an event."""

    id: bytes
    attempt: int
    status: str
    error_code: str | None
    error_message: str | None
    result: bytes | None


async def standings(connection: Connection, ids: Iterable[bytes]) -> dict[bytes, Standing]:
    """What Postgres knows of each of the events `ids`; one that it does not know is not in the answer."""
    cursor = await connection.execute(
        """select id, fingerprint, kafka_offset, counted_offset, kafka_partition, status::text, attempts, error_code,
                  error_message, processed_at, received_at, failed_before
           from headrace.events where id = any(%s::uuid[])""",
        (uuid_array(ids),),
        binary=True,
    )
    return {
        id_.bytes: Standing(Owner(fingerprint.bytes, offset, counted), *rest)
        for id_, fingerprint, offset, counted, *rest in await cursor.fetchall()
    }


@asynccontextmanager
async def inserting_events(connection: Connection, rows: Sequence[Row], now: datetime) -> AsyncIterator[None]:
    """Add new events; they are there after the block, in which Postgres is at them and the connection is not free.

    Raises psycopg's UniqueViolation where Postgres has one of them already.
    """
    if not rows:
        yield
        return
    await _note_fresh(connection, rows, now)
    async with connection.cursor() as cursor, cursor.copy(COPY) as copy:
        for piece in encode_rows(sorted(rows, key=_program), now):
            await copy.write(piece)
        yield


async def _note_fresh(connection: Connection, rows: Sequence[Row], now: datetime) -> None:
    """Say between which event timestamps the rows lie, for lists within windows (migration 0007)."""
    times = [event_microseconds(row.arrival.columns) for row in rows]
    try:
        await connection.execute(
            "select headrace.note_fresh(%s - %s * interval '1 microsecond', %s, %s, %s, %s)",
            (now, len(rows) - 1, now, instant(min(times)), instant(max(times)), len(rows)),
        )
    except (errors.UndefinedFunction, errors.UndefinedTable, errors.InsufficientPrivilege) as error:
        raise NotMigratedError(f"run `headrace migrate`: {error}") from error


def _program(row: Row) -> bytes:
    return row.arrival.event.program.packed


async def count_repeats(connection: Connection, repeats: Mapping[bytes, Repeat], now: datetime) -> None:
    """Add duplicates and conflicts to events that stand already.

    Raises :class:`RowsDifferError` where a row was not as the repeats assume: gone, owned by another payload, or
    counted further.
    """
    if not repeats:
        return
    ids = sorted(repeats)  # one order for all, so that two workers never wait for each other in a circle
    chosen = [repeats[id_] for id_ in ids]
    cursor = await connection.execute(
        """update headrace.events e
           set duplicate_count = e.duplicate_count + r.duplicates, updated_at = %s,
               counted_offset = case when e.kafka_partition = r.kafka_partition
                                     then r.counted_offset else e.counted_offset end,
               conflicts = case when r.conflicts is null then e.conflicts
                                when jsonb_array_length(coalesce(e.conflicts, '[]')) >= %s then e.conflicts
                                else coalesce(e.conflicts, '[]') || r.conflicts end
           from unnest(%s::uuid[], %s::uuid[], %s::integer[], %s::bigint[], %s::bigint[], %s::integer[],
                       %s::jsonb[])
                as r (id, fingerprint, kafka_partition, first_offset, counted_offset, duplicates, conflicts)
           where e.id = r.id and e.fingerprint = r.fingerprint
             and (e.kafka_partition <> r.kafka_partition or e.counted_offset < r.first_offset)""",
        (
            now,
            CONFLICTS_KEPT_MAX,
            uuid_array(ids),
            uuid_array(repeat.fingerprint for repeat in chosen),
            [repeat.partition for repeat in chosen],
            [repeat.first_offset for repeat in chosen],
            [repeat.counted_offset for repeat in chosen],
            [repeat.duplicates for repeat in chosen],
            [None if not repeat.conflicts else Jsonb(conflict_list(repeat.conflicts)) for repeat in chosen],
        ),
    )
    if cursor.rowcount != len(ids):
        raise RowsDifferError


class Progress(NamedTuple):
    """How far a partition has been processed: up to `next_offset`, that one not included."""

    topic: str
    partition: int
    next_offset: int
    record_at: datetime | None
    """The last record's own time; None where there was no record, only what lies between them."""


def progress_to(part: Part) -> Progress:
    """How far a partition is when `part` has been processed."""
    return Progress(part.topic, part.partition, part.end, record_time(part.records[-1]) if part.records else None)


def progress_up_to(records: Iterable[Record]) -> list[Progress]:
    """How far partitions are when `records` have been processed, and those before them, but nothing behind."""
    lasts = {(record.topic, record.partition): record for record in records}
    return [Progress(*place, last.offset + 1, record_time(last)) for place, last in lasts.items()]


async def processed_before(connection: Connection, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """The offset up to which each of `partitions` has been processed, that one not included; none: no answer."""
    cursor = await connection.execute(
        """select p.topic, p.kafka_partition, p.next_offset
           from unnest(%s::text[], %s::integer[]) as w (topic, kafka_partition)
           join headrace.progress p on p.topic = w.topic and p.kafka_partition = w.kafka_partition""",
        ([topic for topic, _ in partitions], [partition for _, partition in partitions]),
    )
    return {(topic, partition): offset for topic, partition, offset in await cursor.fetchall()}


async def note_progress(connection: Connection, progress: Sequence[Progress]) -> None:
    """Say how far partitions have been processed; each stands in `progress` once.

    Records read again take nothing back, unless the partition itself has begun anew and ends before where it was.
    """
    if not progress:
        return
    ordered = sorted(progress, key=lambda one: one[:2])  # the order of all who write here: nobody waits in a circle
    await connection.execute(
        """insert into headrace.progress as p
               (topic, kafka_partition, next_offset, end_offset, record_at, caught_up_at, updated_at)
           select topic, kafka_partition, next_offset, next_offset, record_at, '-infinity', now()
           from unnest(%s::text[], %s::integer[], %s::bigint[], %s::timestamptz[])
                as n (topic, kafka_partition, next_offset, record_at)
           on conflict (topic, kafka_partition) do update
           set next_offset = case when p.end_offset < p.next_offset then excluded.next_offset
                                  else greatest(p.next_offset, excluded.next_offset) end,
               end_offset = greatest(p.end_offset, excluded.end_offset),
               record_at = coalesce(excluded.record_at, p.record_at), updated_at = now()""",
        [list(column) for column in zip(*ordered, strict=True)],
    )


async def add_dead_letters(connection: Connection, letters: Sequence[BadRecord]) -> None:
    """Keep dead letters; one that is kept already, since its record is read again, stays as it is."""
    if not letters:
        return
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """insert into headrace.dead_letter_records
                   (code, reason, topic, kafka_partition, kafka_offset, program_id, event_id, record_key, record_value,
                    record_headers, first_seen_at)
               values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing""",
            [_dead_letter(letter) for letter in letters],
        )


def _dead_letter(letter: BadRecord) -> tuple[Any, ...]:
    record = letter.record
    return (
        letter.code,
        letter.reason,
        record.topic,
        record.partition,
        record.offset,
        None if letter.program_id is None else UUID(bytes=letter.program_id),
        None if letter.event_id is None else UUID(bytes=letter.event_id),
        record.key,
        record.value,
        Jsonb([[storable_text(name), (value or b"").hex()] for name, value in record.headers]),
        record_time(record),
    )


async def schedule(connection: Connection, retries: Sequence[tuple[Arrival, int, timedelta]]) -> None:
    """Plan further attempts: (arrival, attempt, delay) each."""
    if not retries:
        return
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """insert into headrace.retries (id, kafka_partition, program_id, attempt, not_before, record)
               values (%s, %s, %s, %s, now() + %s, %s)
               on conflict (id) do update
               set attempt = excluded.attempt, not_before = excluded.not_before, sent_at = null""",
            [
                (
                    uuid_text(arrival.event.id),
                    arrival.record.partition,
                    arrival.event.program.text,
                    attempt,
                    delay,
                    arrival.event.record,
                )
                for arrival, attempt, delay in retries
            ],
        )


async def end_attempts(connection: Connection, endings: Sequence[Ending], now: datetime) -> None:
    """Write what attempts made of their events, and take them off the plan.

    Raises :class:`RowsDifferError` where an attempt is no longer its event's next: another worker has made it.
    """
    if not endings:
        return
    cursor = await connection.execute(
        """update headrace.events e
           set status = r.status::headrace.status, attempts = r.attempt, error_code = r.error_code,
               error_message = r.error_message, result = r.result, updated_at = %(now)s,
               processed_at = case when r.final then %(now)s::timestamptz end
           from unnest(%(ids)s::uuid[], %(attempts)s::integer[], %(statuses)s::text[], %(final)s::boolean[],
                       %(codes)s::text[], %(messages)s::text[], %(results)s::jsonb[])
                as r (id, attempt, status, final, error_code, error_message, result)
           where e.id = r.id and e.attempts = r.attempt - 1 and e.status not in ('COMPLETED', 'FAILED')""",
        {
            "now": now,
            "ids": uuid_array(ending.id for ending in endings),
            "attempts": [ending.attempt for ending in endings],
            "statuses": [ending.status for ending in endings],
            "final": [ending.status in FINAL for ending in endings],
            "codes": [ending.error_code for ending in endings],
            "messages": [ending.error_message for ending in endings],
            "results": [None if ending.result is None else ending.result.decode() for ending in endings],
        },
    )
    if cursor.rowcount != len(endings):
        raise RowsDifferError
    await connection.execute(
        """delete from headrace.retries r using unnest(%s::uuid[], %s::integer[]) as e (id, attempt)
           where r.id = e.id and r.attempt = e.attempt""",
        (uuid_array(ending.id for ending in endings), [ending.attempt for ending in endings]),
    )


FINAL = frozenset({"COMPLETED", "FAILED"})


def conflict_list(conflicts: Iterable[Arrival]) -> list[dict[str, str]]:
    """Conflicts as the event's row and answers show them, as many as are kept."""
    return [
        {
            "received_at": timestamp_text(arrival.received_at),
            "fingerprint": arrival.event.fingerprint.hex(),
            "reason": "idempotency_conflict",
        }
        for arrival in islice(conflicts, CONFLICTS_KEPT_MAX)
    ]


def uuid_array(ids: Iterable[bytes]) -> str:
    """An array of uuids as Postgres reads it, which costs a client far less than a list of UUID."""
    return "{" + ",".join([id_.hex() for id_ in ids]) + "}"
