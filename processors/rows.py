"""Rows of ``headrace.events`` in Postgres' binary COPY format: no text to escape, ids as the bytes they are.

The format: https://www.postgresql.org/docs/18/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

import struct
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache, lru_cache
from uuid import UUID

import msgspec

from processors.records import Arrival

COLUMNS = (
    "id",
    "program_id",
    "fingerprint",
    "event_type",
    "event_timestamp",
    "received_at",
    "idempotency_key",
    "event_data",
    "external_id",
    "participant_id",
    "recipient_external_id",
    "recipient_id",
    "status",
    "attempts",
    "duplicate_count",
    "conflicts",
    "error_code",
    "error_message",
    "result",
    "created_at",
    "updated_at",
    "processed_at",
    "kafka_partition",
    "kafka_offset",
    "counted_offset",
)

COPY = f"copy headrace.events ({', '.join(COLUMNS)}) from stdin with (format binary)"

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_NULL = b"\xff\xff\xff\xff"
_JSONB_VERSION = 1
_columns = struct.Struct("!h").pack(len(COLUMNS))
_length = struct.Struct("!i").pack
_int4 = struct.Struct("!ii").pack
_int8 = struct.Struct("!iq").pack
_ids = struct.Struct("!2si16si16si16s").pack
_json_head = struct.Struct("!iB").pack
_times_and_key_length = struct.Struct("!iqiqi").pack
_offsets = struct.Struct("!iiiqiq").pack


class Row(msgspec.Struct, gc=False):
    """A new event's row: the arrival that owns it, and what processing made of it. JSON columns are encoded."""

    arrival: Arrival
    status: str
    final: bool
    counted_offset: int
    duplicates: int = 0
    conflicts: bytes | None = None
    error_code: str | None = None
    error_message: str | None = None
    result: bytes | None = None


def encode_rows(rows: Iterable[Row], now: datetime) -> bytes:
    """The rows, created at `now`, as one COPY stream."""
    created = _int8(8, _microseconds(now))
    final_times, open_times = created * 3, created * 2 + _NULL
    parts = [HEADER]
    for row in rows:
        arrival = row.arrival
        event = arrival.event
        fields = event.fields
        key = fields.idempotency_key.encode()
        data = event.data
        external, participant = fields.external_id, fields.participant_id
        recipient_external, recipient = fields.recipient_external_id, fields.recipient_id
        result = row.result
        parts += (
            _ids(_columns, 16, event.id, 16, event.program.packed, 16, event.fingerprint),
            _constant_text(arrival.event_type),
            _times_and_key_length(
                8, _microseconds(event.timestamp), 8, _received_microseconds(arrival.received_at), len(key)
            ),
            key,
            _json_head(len(data) + 1, _JSONB_VERSION),
            data,
            _NULL if external is None else _text(external),
            _NULL if participant is None else _uuid(participant),
            _NULL if recipient_external is None else _text(recipient_external),
            _NULL if recipient is None else _uuid(recipient),
            _outcome(row.status, row.duplicates, row.conflicts, row.error_code, row.error_message),
            _NULL if result is None else _jsonb(result),
            final_times if row.final else open_times,
            _offsets(4, arrival.record.partition, 8, arrival.offset, 8, row.counted_offset),
        )
    parts.append(TRAILER)
    return b"".join(parts)


def _outcome(
    status: str, duplicates: int, conflicts: bytes | None, error_code: str | None, error_message: str | None
) -> bytes:
    """Columns `status` to `error_message`; of nearly all rows they are the same bytes."""
    if duplicates or conflicts or error_code is not None or error_message is not None:
        return _columns_of_outcome(status, duplicates, conflicts, error_code, error_message)
    return _plain_outcome(status)


def _columns_of_outcome(
    status: str, duplicates: int, conflicts: bytes | None, error_code: str | None, error_message: str | None
) -> bytes:
    return b"".join(
        (
            _text(status),
            _int4(4, 1),
            _int4(4, duplicates),
            _NULL if conflicts is None else _jsonb(conflicts),
            _NULL if error_code is None else _text(error_code),
            _NULL if error_message is None else _text(error_message),
        )
    )


@cache
def _plain_outcome(status: str) -> bytes:
    return _columns_of_outcome(status, 0, None, None, None)


def _microseconds(instant: datetime) -> int:
    since = instant - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


# Events of one request were received at one time.
_received_microseconds = lru_cache(maxsize=1_024)(_microseconds)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _length(len(encoded)) + encoded


# Only for what has a handful of values.
_constant_text = cache(_text)


def _uuid(value: UUID) -> bytes:
    return b"\0\0\0\x10" + value.bytes


def _jsonb(encoded: bytes) -> bytes:
    return _json_head(len(encoded) + 1, _JSONB_VERSION) + encoded
