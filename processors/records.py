"""Records as they come from Kafka, read into events, or into what is wrong with them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

import msgspec
from aiokafka import ConsumerRecord

from schemas.errors import INVALID_JSON, KEY_MISMATCH, UNREADABLE_RECORD
from schemas.event import Event, EventReader, InvalidEventError

Record = ConsumerRecord[bytes | None, bytes | None]

EXTERNAL = "EXTERNAL"
SYSTEM = "SYSTEM"

_RECEIVED_TIMES_REMEMBERED = 1_024
_REASON_CHARACTERS_MAX = 1_000
_LATEST_MS = 253_402_300_799_000  # the last second of the year 9999


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """An event as one record brought it. `event_type` says whether a gateway or a service published it."""

    event: Event
    offset: int
    received_at: datetime
    event_type: str
    record: Record


class BadRecord(msgspec.Struct, frozen=True):
    """A record that is no event of its partition: a dead letter."""

    code: str
    reason: str
    record: Record
    program_id: bytes | None = None
    event_id: bytes | None = None


def read_record(reader: EventReader, record: Record) -> Arrival | BadRecord:
    """Read one record, from whoever published it."""
    if record.value is None:
        return BadRecord(UNREADABLE_RECORD, "the record has no value", record)
    try:
        event = reader.read(record.value)
    except InvalidEventError as error:
        code = UNREADABLE_RECORD if error.code is INVALID_JSON else error.code.code
        return BadRecord(code, str(error)[:_REASON_CHARACTERS_MAX], record)
    if record.key != event.program.key:
        reason = f"the record's key must be its program_id, {event.program.text}, in lower case"
        return BadRecord(KEY_MISMATCH, reason, record, event.program.packed, event.id)
    received_at = _received_at(record.headers)
    if received_at is None:
        return Arrival(event, record.offset, record_time(record), SYSTEM, record)
    return Arrival(event, record.offset, received_at, EXTERNAL, record)


def record_time(record: Record) -> datetime:
    """The record's timestamp: when its producer, or the broker, says that it was written."""
    return datetime.fromtimestamp(min(max(record.timestamp, 0), _LATEST_MS) / 1000, UTC)


def header(headers: Sequence[tuple[str, bytes]], name: str) -> bytes | None:
    """The first header called `name`, or None."""
    for found, value in headers:
        if found == name:
            return value
    return None


def _received_at(headers: Sequence[tuple[str, bytes]]) -> datetime | None:
    """When the gateway received the event; None where no gateway says so."""
    value = header(headers, "received-at")
    return None if value is None else _parsed_time(value)


@lru_cache(maxsize=_RECEIVED_TIMES_REMEMBERED)
def _parsed_time(value: bytes) -> datetime | None:
    # Our own gateways wrote it; anybody else's spelling only costs the distinction.
    try:
        instant = datetime.fromisoformat(value.decode())
        return None if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
