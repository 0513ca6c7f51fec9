"""Events as the API shows them: one struct, made from a row of `events` or from a claim. No I/O."""

from datetime import datetime
from typing import Annotated, Any, Literal, LiteralString, TypeAlias

import msgspec
from psycopg.rows import TupleRow

from schemas.timestamps import timestamp_text

# Texts, so that nothing on the way turns numbers into floats or ids into objects that are turned back.
COLUMNS: LiteralString = """
    id::text, program_id::text, idempotency_key, event_timestamp, external_id, participant_id::text,
    recipient_external_id, recipient_id::text, event_data::text, status::text, event_type::text, error_code,
    error_message, attempts, duplicate_count, coalesce(conflicts, '[]'::jsonb)::text, result::text, received_at,
    created_at, updated_at, processed_at
"""

Status: TypeAlias = Literal["PENDING", "PROCESSING", "COMPLETED", "FAILED"]
EventType: TypeAlias = Literal["EXTERNAL", "SYSTEM"]

FINAL_STATUSES = frozenset({"COMPLETED", "FAILED"})

# What the machine-readable contract says of fields whose Python type says less.
UuidText: TypeAlias = Annotated[str, msgspec.Meta(extra_json_schema={"format": "uuid"})]
Instant: TypeAlias = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
_JsonObject: TypeAlias = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})]
_Conflicts: TypeAlias = Annotated[
    msgspec.Raw,
    msgspec.Meta(extra_json_schema={"type": "array", "items": {"$ref": "#/components/schemas/Conflict"}}),
]
_Result: TypeAlias = Annotated[
    msgspec.Raw, msgspec.Meta(description="What the handlers made of it; null where they made nothing")
]

_EMPTY_LIST = msgspec.Raw(b"[]")
_NULL = msgspec.Raw(b"null")


class Conflict(msgspec.Struct):
    """A later record with the same idempotency key and another payload."""

    received_at: Instant
    fingerprint: str
    reason: str


class EventAnswer(msgspec.Struct):
    """An event: what was sent, and what has become of it. Timestamps are RFC 3339 in UTC."""

    id: UuidText
    program_id: UuidText
    idempotency_key: str
    event_timestamp: Instant
    external_id: str | None
    participant_id: UuidText | None
    recipient_external_id: str | None
    recipient_id: UuidText | None
    event_data: _JsonObject
    status: Status
    event_type: EventType
    error_code: str | None
    error_message: str | None
    attempts: int
    duplicate_count: int
    conflicts: _Conflicts
    result: _Result
    received_at: Instant
    created_at: Instant
    updated_at: Instant
    processed_at: Instant | None


class Pagination(msgspec.Struct):
    """Whether another page follows, and the cursor that asks for it."""

    has_more: bool
    next_cursor: str | None


class EventPage(msgspec.Struct):
    """One page of events."""

    data: list[EventAnswer]
    pagination: Pagination


class _Claimed(msgspec.Struct):
    """What a claim's record says of an event."""

    program_id: str
    idempotency_key: str
    event_timestamp: str
    event_data: msgspec.Raw
    external_id: str | None = None
    participant_id: str | None = None
    recipient_external_id: str | None = None
    recipient_id: str | None = None


_decode_claimed = msgspec.json.Decoder(_Claimed).decode


def from_row(row: TupleRow) -> EventAnswer:
    """The event of a row with the columns `COLUMNS`."""
    values: list[Any] = list(row)
    values[3] = timestamp_text(values[3])
    values[8] = _raw(values[8])
    values[15], values[16] = _raw(values[15]), _raw(values[16])
    values[17:20] = map(timestamp_text, values[17:20])
    values[20] = None if values[20] is None else timestamp_text(values[20])
    return EventAnswer(*values)


def from_claim(event_id: str, record: bytes, claimed_at: datetime) -> EventAnswer:
    """The event that a claim stands for: accepted, not yet processed. `record` is its canonical JSON."""
    claimed = _decode_claimed(record)
    at = timestamp_text(claimed_at)
    return EventAnswer(
        id=event_id,
        program_id=claimed.program_id,
        idempotency_key=claimed.idempotency_key,
        event_timestamp=claimed.event_timestamp,
        external_id=claimed.external_id,
        participant_id=claimed.participant_id,
        recipient_external_id=claimed.recipient_external_id,
        recipient_id=claimed.recipient_id,
        event_data=claimed.event_data,
        status="PENDING",
        event_type="EXTERNAL",
        error_code=None,
        error_message=None,
        attempts=0,
        duplicate_count=0,
        conflicts=_EMPTY_LIST,
        result=_NULL,
        received_at=at,
        created_at=at,
        updated_at=at,
        processed_at=None,
    )


def _raw(text: str | None) -> msgspec.Raw:
    return _NULL if text is None else msgspec.Raw(text.encode())
