"""What the processors say to Postgres: one statement a function, each inside the chunk's transaction."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from processors.pipeline import Owner, Repeat
from processors.records import Arrival, BadRecord, record_time
from processors.rows import COPY, Row, encode_rows
from schemas.identity import uuid_text
from schemas.timestamps import timestamp_text

Connection = AsyncConnection[Any]

CONFLICTS_KEPT_MAX = 100
"""Conflicts that one event's row keeps; each is among the dead letters all the same."""

_encode = msgspec.json.Encoder(decimal_format="number").encode


class Standing(NamedTuple):
    """What Postgres knows of an event: who owns it, from which partition, and how far its processing is."""

    owner: Owner
    partition: int
    status: str
    attempts: int
    error_code: str | None
    processed_at: datetime | None


class Ending(NamedTuple):
    """What an attempt after the first made of an event; `retry_in_s` None: the status is final."""

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
                  processed_at
           from headrace.events where id = any(%s::uuid[])""",
        (uuid_array(ids),),
        binary=True,
    )
    return {
        id_.bytes: Standing(Owner(fingerprint.bytes, offset, counted), *rest)
        for id_, fingerprint, offset, counted, *rest in await cursor.fetchall()
    }


async def insert_events(connection: Connection, rows: Sequence[Row], partition: int, now: datetime) -> None:
    """Add new events. Raises psycopg's UniqueViolation where Postgres has one of them already."""
    if not rows:
        return
    async with connection.cursor() as cursor, cursor.copy(COPY) as copy:
        await copy.write(encode_rows(rows, partition, now))


async def count_repeats(
    connection: Connection, repeats: Mapping[bytes, Repeat], partition: int, now: datetime
) -> bool:
    """Add duplicates and conflicts, read from `partition`, to events that stand already.

    False where a row was not as the repeats assume: gone, owned by another payload, or counted further. Then the
    transaction must be undone.
    """
    if not repeats:
        return True
    ids = sorted(repeats)  # one order for all, so that two workers never wait for each other in a circle
    chosen = [repeats[id_] for id_ in ids]
    cursor = await connection.execute(
        """update headrace.events e
           set duplicate_count = e.duplicate_count + r.duplicates, updated_at = %s,
               counted_offset = case when e.kafka_partition = %s then r.counted_offset else e.counted_offset end,
               conflicts = case when r.conflicts is null then e.conflicts
                                when jsonb_array_length(coalesce(e.conflicts, '[]')) >= %s then e.conflicts
                                else coalesce(e.conflicts, '[]') || r.conflicts end
           from unnest(%s::uuid[], %s::uuid[], %s::bigint[], %s::bigint[], %s::integer[], %s::jsonb[])
                as r (id, fingerprint, first_offset, counted_offset, duplicates, conflicts)
           where e.id = r.id and e.fingerprint = r.fingerprint
             and (e.kafka_partition <> %s or e.counted_offset < r.first_offset)""",
        (
            now,
            partition,
            CONFLICTS_KEPT_MAX,
            uuid_array(ids),
            uuid_array(repeat.fingerprint for repeat in chosen),
            [repeat.first_offset for repeat in chosen],
            [repeat.counted_offset for repeat in chosen],
            [repeat.duplicates for repeat in chosen],
            [None if not repeat.conflicts else Jsonb(conflict_list(repeat.conflicts)) for repeat in chosen],
            partition,
        ),
    )
    return cursor.rowcount == len(ids)


async def processed_before(connection: Connection, topic: str, partition: int) -> int:
    """The offset up to which the partition has been processed, that one not included."""
    cursor = await connection.execute(
        "select next_offset from headrace.progress where topic = %s and kafka_partition = %s", (topic, partition)
    )
    row = await cursor.fetchone()
    return 0 if row is None else row[0]


async def note_progress(connection: Connection, topic: str, partition: int, last: Any) -> None:
    """Say that everything up to the record `last` of the partition has been processed."""
    await connection.execute(
        """insert into headrace.progress as p
               (topic, kafka_partition, next_offset, end_offset, record_at, caught_up_at, updated_at)
           values (%s, %s, %s, %s, %s, '-infinity', now())
           on conflict (topic, kafka_partition) do update
           set next_offset = excluded.next_offset, end_offset = greatest(p.end_offset, excluded.end_offset),
               record_at = excluded.record_at, updated_at = now()""",
        (topic, partition, last.offset + 1, last.offset + 1, record_time(last)),
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
        Jsonb([[name, (value or b"").hex()] for name, value in record.headers]),
        record_time(record),
    )


async def schedule(connection: Connection, retries: Sequence[tuple[Arrival, int, int, timedelta]]) -> None:
    """Plan further attempts: (arrival, partition, attempt, delay) each."""
    if not retries:
        return
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """insert into headrace.retries (id, kafka_partition, program_id, attempt, not_before, record)
               values (%s, %s, %s, %s, now() + %s, %s)
               on conflict (id) do update
               set attempt = excluded.attempt, not_before = excluded.not_before, sent_at = null""",
            [
                (uuid_text(arrival.event.id), partition, arrival.event.program.text, attempt, delay, arrival.event.record)
                for arrival, partition, attempt, delay in retries
            ],
        )


async def end_attempts(connection: Connection, endings: Sequence[Ending], now: datetime) -> None:
    """Write what attempts after the first made of their events, and take them off the plan."""
    for ending in endings:
        processed_at = now if ending.status in FINAL else None
        await connection.execute(
            """update headrace.events set status = %s::headrace.status, attempts = %s, error_code = %s,
                      error_message = %s, result = %s::jsonb, updated_at = %s, processed_at = %s
               where id = %s""",
            (
                ending.status,
                ending.attempt,
                ending.error_code,
                ending.error_message,
                None if ending.result is None else ending.result.decode(),
                now,
                processed_at,
                uuid_text(ending.id),
            ),
        )
    await connection.execute(
        """delete from headrace.retries r using unnest(%s::uuid[], %s::integer[]) as e (id, attempt)
           where r.id = e.id and r.attempt = e.attempt""",
        (uuid_array(ending.id for ending in endings), [ending.attempt for ending in endings]),
    )


FINAL = frozenset({"COMPLETED", "FAILED"})


def conflict_list(conflicts: Iterable[Arrival]) -> list[dict[str, str]]:
    """Conflicts as the event's row and answers show them."""
    return [
        {
            "received_at": timestamp_text(arrival.received_at),
            "fingerprint": arrival.event.fingerprint.hex(),
            "reason": "idempotency_conflict",
        }
        for arrival in conflicts
    ]


def encode_json(value: Any) -> bytes:
    """JSON for a jsonb column. Raises TypeError or ValueError where `value` cannot be JSON."""
    return _encode(value)


def uuid_array(ids: Iterable[bytes]) -> str:
    """An array of uuids as Postgres reads it, which costs a client far less than a list of UUID."""
    return "{" + ",".join([id_.hex() for id_ in ids]) + "}"
