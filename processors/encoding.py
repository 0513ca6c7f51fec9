"""What of an event can be encoded as soon as it is read: its own columns, and the names in its status record.

While it is read, all of an event is in the processor's cache. Later thousands of others have been read: then looking at
its fields once more costs twice what encoding them here does.

Columns are in Postgres' binary format for COPY: no text to escape, ids as the bytes they are. `processors/_encode.c`
makes the same bytes in a fraction of the time, where an installation has it.
"""

import struct
from datetime import UTC, datetime, timedelta

from schemas.event import Event
from schemas.identity import uuid_ascii

try:
    from processors import _encode
except ImportError:  # built without a C compiler, or without Python's headers
    _encode = None  # type: ignore[assignment]

OWN_COLUMNS = (
    "kafka_partition",
    "kafka_offset",
    "counted_offset",
    "id",
    "program_id",
    "fingerprint",
    "event_timestamp",
    "idempotency_key",
    "external_id",
    "participant_id",
    "recipient_external_id",
    "recipient_id",
    "event_data",
)
"""The columns that :func:`encode` gives."""

NULL = b"\xff\xff\xff\xff"

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_THREE_NULLS = 3 * NULL
_JSONB_VERSION = 1
_length = struct.Struct("!i").pack
_of_known_length = struct.Struct("!iiiqiqi16si16si16siqi").pack
_nulls_and_json_head = struct.Struct("!12siB").pack
_json_head = struct.Struct("!iB").pack
_COUNTED_AT = 24  # after a partition of 4 bytes and an offset of 8, and the length of each of the three
_counted = struct.Struct("!q").pack
int8 = struct.Struct("!iq").pack
_TIMESTAMP_AT = 96  # behind these three and three ids of 16 bytes, and the length of each of the seven
_timestamp = struct.Struct("!q").unpack_from

# No name before it can hold it: quotes inside of names are escaped.
_AFTER_NAMES = b'"event_timestamp":'


def encode_plainly(event: Event, partition: int, offset: int) -> tuple[bytes, bytes]:
    """Two things of an event that `partition` has at `offset`.

    Its own columns, as one whose repeats are counted up to there, and how the record of its status begins: what there
    is of that before the status.
    """
    return _own_columns(event, partition, offset), _names(event)


IS_COMPILED = _encode is not None
"""Whether events are encoded by the compiled part."""

encode = _encode.encode if IS_COMPILED else encode_plainly
"""As :func:`encode_plainly`; raises TypeError for what is no event."""


def _own_columns(event: Event, partition: int, offset: int) -> bytes:
    key = event.idempotency_key.encode()
    external = event.external_id
    data = event.data
    since = event.timestamp - _EPOCH
    begin = _of_known_length(
        4,
        partition,
        8,
        offset,
        8,
        offset,
        16,
        event.id,
        16,
        event.program.packed,
        16,
        event.fingerprint,
        8,
        (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds,
        len(key),
    )
    if (
        external is not None
        and event.participant_id is None
        and event.recipient_external_id is None
        and event.recipient_id is None
    ):
        name = external.encode()
        head = _nulls_and_json_head(_THREE_NULLS, len(data) + 1, _JSONB_VERSION)
        return b"".join((begin, key, _length(len(name)), name, head, data))
    return b"".join((begin, key, _participants(event), _json_head(len(data) + 1, _JSONB_VERSION), data))


def counted_up_to(columns: bytes, counted_offset: int) -> bytes:
    """The same columns of an event whose repeats are counted up to `counted_offset`."""
    return columns[:_COUNTED_AT] + _counted(counted_offset) + columns[_COUNTED_AT + 8 :]


def event_microseconds(columns: bytes) -> int:
    """The event timestamp among an event's own columns, as Postgres counts."""
    microseconds_: int = _timestamp(columns, _TIMESTAMP_AT)[0]
    return microseconds_


def _names(event: Event) -> bytes:
    record = event.record
    # The event begins with program_id and idempotency_key as they are wanted here, encoded already.
    return b"".join((b'{"id":"', uuid_ascii(event.id), b'",', record[1 : record.index(_AFTER_NAMES)]))


def instant(microseconds: int) -> datetime:
    """The instant of a count of microseconds since 2000."""
    return _EPOCH + timedelta(microseconds=microseconds)


def microseconds(instant: datetime) -> int:
    """An instant as Postgres counts: microseconds since 2000."""
    since = instant - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def text(value: str | None) -> bytes:
    """A column of text."""
    if value is None:
        return NULL
    encoded = value.encode()
    return _length(len(encoded)) + encoded


def jsonb(encoded: bytes | None) -> bytes:
    """A column of jsonb, of encoded JSON."""
    return NULL if encoded is None else _json_head(len(encoded) + 1, _JSONB_VERSION) + encoded


def _uuid(value: str | None) -> bytes:
    return NULL if value is None else b"\0\0\0\x10" + bytes.fromhex(value.replace("-", ""))


def _participants(event: Event) -> bytes:
    return b"".join(
        (
            text(event.external_id),
            _uuid(event.participant_id),
            text(event.recipient_external_id),
            _uuid(event.recipient_id),
        )
    )
