"""Rows of ``headrace.events`` in Postgres' binary COPY format: no text to escape, ids as the bytes they are.

The format: https://www.postgresql.org/docs/18/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

import struct
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
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
_MICROSECOND = timedelta(microseconds=1)
_NULL = b"\xff\xff\xff\xff"
_JSONB_VERSION = b"\x01"
_length = struct.Struct("!i").pack
_columns = struct.Struct("!h").pack(len(COLUMNS))
_head = struct.Struct("!2si16si16si16s").pack
_int8 = struct.Struct("!iq").pack
_int4 = struct.Struct("!ii").pack
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


def encode_rows(rows: Iterable[Row], partition: int, now: datetime) -> bytes:
    """The rows of records of one partition, created at `now`, as one COPY stream."""
    created = _instant(now)
    final_times, open_times = created * 3, created * 2 + _NULL
    parts = [HEADER]
    for row in rows:
        arrival = row.arrival
        event = arrival.event
        fields = event.fields
        parts += (
            _head(_columns, 16, event.id, 16, event.program.packed, 16, event.fingerprint),
            _text(arrival.event_type),
            _instant(event.timestamp),
            _instant(arrival.received_at),
            _text(fields.idempotency_key),
            _jsonb(event.data),
            _optional_text(fields.external_id),
            _optional_uuid(fields.participant_id),
            _optional_text(fields.recipient_external_id),
            _optional_uuid(fields.recipient_id),
            _text(row.status),
            _int4(4, 1),
            _int4(4, row.duplicates),
            _NULL if row.conflicts is None else _jsonb(row.conflicts),
            _optional_text(row.error_code),
            _optional_text(row.error_message),
            _NULL if row.result is None else _jsonb(row.result),
            final_times if row.final else open_times,
            _offsets(4, partition, 8, arrival.offset, 8, row.counted_offset),
        )
    parts.append(TRAILER)
    return b"".join(parts)


def _instant(instant: datetime) -> bytes:
    return _int8(8, (instant - _EPOCH) // _MICROSECOND)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _length(len(encoded)) + encoded


def _optional_text(text: str | None) -> bytes:
    return _NULL if text is None else _text(text)


def _optional_uuid(value: UUID | None) -> bytes:
    return _NULL if value is None else b"\0\0\0\x10" + value.bytes


def _jsonb(encoded: bytes) -> bytes:
    return _length(len(encoded) + 1) + _JSONB_VERSION + encoded
