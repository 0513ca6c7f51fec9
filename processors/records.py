"""Records as they come from Kafka, read into events, or into what is wrong with them."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import cast

import msgspec

from processors import encoding
from processors.ports import Record
from schemas.errors import INVALID_JSON, KEY_MISMATCH, UNREADABLE_RECORD
from schemas.event import Event, InvalidEventError
from schemas.reader import EventReader

EXTERNAL = "EXTERNAL"
SYSTEM = "SYSTEM"

_READ_AT_ONCE = 200  # few enough to stay in the processor's cache
_RECEIVED_TIMES_REMEMBERED = 1_024
_REASON_CHARACTERS_MAX = 1_000
_LATEST_MS = 253_402_300_799_000  # the last second of the year 9999


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """An event as one record brought it. `event_type` says whether a gateway or a service published it.

    `columns` and `names` are what :mod:`processors.encoding` makes of it.
    """

    event: Event
    offset: int
    received_at: datetime
    event_type: str
    record: Record
    columns: bytes
    names: bytes


class BadRecord(msgspec.Struct, frozen=True):
    """A record that is no event of its partition: a dead letter."""

    code: str
    reason: str
    record: Record
    program_id: bytes | None = None
    event_id: bytes | None = None


async def read_records(reader: EventReader, records: Sequence[Record]) -> tuple[list[Arrival], list[BadRecord]]:
    """Read records, from whoever published them: the events, and what is none, each in order.

    Thousands of them take some 20 ms: between a few hundred and the next, whatever else waits has its turn.
    """
    arrivals: list[Arrival] = []
    bad: list[BadRecord] = []
    for start in range(0, len(records), _READ_AT_ONCE):
        some = records[start : start + _READ_AT_ONCE]
        for record, read in zip(some, reader.read_many([one.value or b"" for one in some]), strict=True):
            item = _item(record, read)
            if type(item) is Arrival:
                arrivals.append(item)
            else:
                bad.append(cast(BadRecord, item))
        await asyncio.sleep(0)
    return arrivals, bad


def read_record(reader: EventReader, record: Record) -> Arrival | BadRecord:
    """Read one record."""
    return _item(record, reader.read_many([record.value or b""])[0])


def _item(record: Record, read: Event | InvalidEventError) -> Arrival | BadRecord:
    if isinstance(read, InvalidEventError):
        if record.value is None:
            return BadRecord(UNREADABLE_RECORD, "the record has no value", record)
        code = UNREADABLE_RECORD if read.code is INVALID_JSON else read.code.code
        return BadRecord(code, str(read)[:_REASON_CHARACTERS_MAX], record)
    if record.key != read.program.key:
        reason = f"the record's key must be its program_id, {read.program.text}, in lower case"
        return BadRecord(KEY_MISMATCH, reason, record, read.program.packed, read.id)
    received_at = _parsed_time(header(record.headers, "received-at") or b"")
    if received_at is None:
        return arrived(read, record, record_time(record), SYSTEM)
    return arrived(read, record, received_at, EXTERNAL)


def arrived(event: Event, record: Record, received_at: datetime, event_type: str) -> Arrival:
    """The arrival of `event`, which `record` brought."""
    offset = record.offset
    columns, names = encoding.encode(event, record.partition, offset)
    return Arrival(event, offset, received_at, event_type, record, columns, names)


def record_time(record: Record) -> datetime:
    """The record's timestamp: when its producer, or the broker, says that it was written."""
    return datetime.fromtimestamp(min(max(record.timestamp, 0), _LATEST_MS) / 1000, UTC)


def header(headers: Sequence[tuple[str, bytes]], name: str) -> bytes | None:
    """The first header called `name`, or None."""
    for found, value in headers:
        if found == name:
            return value
    return None


@lru_cache(maxsize=_RECEIVED_TIMES_REMEMBERED)
def _parsed_time(value: bytes) -> datetime | None:
    # Our own gateways wrote it; anybody else's spelling only costs the distinction.
    try:
        instant = datetime.fromisoformat(value.decode())
        return None if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
