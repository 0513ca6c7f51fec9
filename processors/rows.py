"""Rows of ``headrace.events`` in Postgres' binary COPY format.

The format: https://www.postgresql.org/docs/18/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

import struct
from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec

from processors.encoding import NULL, OWN_COLUMNS, counted_up_to, int8, jsonb, microseconds, text
from processors.records import Arrival

_COMMON_COLUMNS = (
    "event_type",
    "received_at",
    "status",
    "attempts",
    "duplicate_count",
    "conflicts",
    "error_code",
    "error_message",
    "updated_at",
    "processed_at",
)
"""Columns of which many rows of a bundle have the same bytes."""

COLUMNS = (*_COMMON_COLUMNS, *OWN_COLUMNS, "created_at", "result")

COPY = f"copy headrace.events ({', '.join(COLUMNS)}) from stdin with (format binary)"

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

_ROWS_A_PIECE = 500

_columns = struct.Struct("!h").pack(len(COLUMNS))
_int4 = struct.Struct("!ii").pack


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


def encode_rows(rows: Sequence[Row], now: datetime) -> Iterator[bytes]:
    """The rows as one COPY stream: each created a microsecond after the one before it, the last at `now`.

    So each is the last of all in the index of creation times, where Postgres need not look for its place. The stream
    comes in pieces, so that Postgres is at the first while the next is made.
    """
    common = _Common(now)
    created = microseconds(now) - len(rows)
    yield HEADER
    for start in range(0, len(rows), _ROWS_A_PIECE):
        yield _encode_piece(rows[start : start + _ROWS_A_PIECE], common, created + start)
    yield TRAILER


def _encode_piece(rows: Sequence[Row], common: "_Common", created: int) -> bytes:
    parts: list[bytes] = []
    for row in rows:
        created += 1
        arrival = row.arrival
        if row.duplicates or row.conflicts or row.error_code is not None or row.error_message is not None:
            begin = common.encode(row)
        else:
            begin = common[arrival.event_type, arrival.received_at, row.status, row.final]
        own = arrival.columns
        if row.counted_offset != arrival.offset:
            own = counted_up_to(own, row.counted_offset)
        result = row.result
        parts += (begin, own, int8(8, created), NULL if result is None else jsonb(result))
    return b"".join(parts)


class _Common(dict[tuple[str, datetime, str, bool], bytes]):
    """The common columns of rows of which there is nothing else to say, by what they depend on."""

    def __init__(self, now: datetime) -> None:
        super().__init__()
        updated = int8(8, microseconds(now))
        self._times = {True: updated * 2, False: updated + NULL}

    def __missing__(self, key: tuple[str, datetime, str, bool]) -> bytes:
        event_type, received_at, status, final = key
        columns = self[key] = self._encode(event_type, received_at, (status, 0, None, None, None), final=final)
        return columns

    def encode(self, row: Row) -> bytes:
        """The common columns of any row."""
        outcome = row.status, row.duplicates, row.conflicts, row.error_code, row.error_message
        return self._encode(row.arrival.event_type, row.arrival.received_at, outcome, final=row.final)

    def _encode(
        self,
        event_type: str,
        received_at: datetime,
        outcome: tuple[str, int, bytes | None, str | None, str | None],
        *,
        final: bool,
    ) -> bytes:
        status, duplicates, conflicts, error_code, error_message = outcome
        return b"".join(
            (
                _columns,
                text(event_type),
                int8(8, microseconds(received_at)),
                text(status),
                _int4(4, 1),
                _int4(4, duplicates),
                jsonb(conflicts),
                text(error_code),
                text(error_message),
                self._times[final],
            )
        )
