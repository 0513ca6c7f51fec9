"""The event: its fields and limits, and what reading one gives. How one is read: :mod:`schemas.reader`."""

import sys
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec

from schemas import exact
from schemas.errors import INVALID_PROGRAM_ID, ErrorCode
from schemas.identity import Program, program

NAME_CHARACTERS_MAX = 255

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARACTERS_MAX)]

_FIELD_CHARACTERS_SHOWN = 500

_DATA_START = b'"event_data":{'


class Fields(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False):
    """The fields of an event as they travel, in the order of the canonical form. `event_data` must stay the last.

    An optional field that is null counts as not given.
    """

    program_id: str
    idempotency_key: Name
    event_timestamp: str
    external_id: Name | None = None
    participant_id: UUID | None = None
    recipient_external_id: Name | None = None
    recipient_id: UUID | None = None
    event_data: dict[str, Any]


class Event(msgspec.Struct, frozen=True, gc=False):
    """An event that has been read and found good.

    `id` and `fingerprint` are 16 bytes each; `record` is the canonical JSON of all fields (what travels through Kafka,
    and what the fingerprint is of). UUIDs and `event_timestamp` are in their canonical spelling.
    """

    id: bytes
    fingerprint: bytes
    program: Program
    idempotency_key: str
    event_timestamp: str
    external_id: str | None
    participant_id: str | None
    recipient_external_id: str | None
    recipient_id: str | None
    record: bytes
    _event_data: dict[str, Any] | None = None

    @property
    def timestamp(self) -> datetime:
        """`event_timestamp`, in UTC."""
        return datetime.fromisoformat(self.event_timestamp)

    @property
    def data(self) -> bytes:
        """`event_data` as canonical JSON. It ends the record, and no earlier field can hold its unescaped name."""
        return self.record[self.record.index(_DATA_START) + len(_DATA_START) - 1 : -1]

    @property
    def event_data(self) -> dict[str, Any]:
        """`event_data` decoded, when it is first asked for. Numbers that are not whole are :class:`decimal.Decimal`."""
        if self._event_data is None:
            msgspec.structs.force_setattr(self, "_event_data", _decode_data(self.data))
        return self._event_data  # type: ignore[return-value]  # it has just been set


# Of what was found good before: its digits need not be counted.
_decode_data = msgspec.json.Decoder(dict[str, Any], float_hook=exact.NumberReader(sys.maxsize).hook).decode


class InvalidEventError(ValueError):
    """An event that breaks the rules: the `code`, the `field` (empty: the event as a whole), the `message`."""

    def __init__(self, code: ErrorCode, field: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.field = field[:_FIELD_CHARACTERS_SHOWN]
        self.message = message

    def __str__(self) -> str:
        """Field and message in one line, as answers and dead letters show it."""
        if self.code is INVALID_PROGRAM_ID:
            return "invalid program_id"
        return f"{self.field}: {self.message}" if self.field else self.message


class Ids(msgspec.Struct):
    """What an answer shows of an event that was refused: the ids, as far as they are strings."""

    program_id: Any = None
    idempotency_key: Any = None
    event_timestamp: Any = None
    external_id: Any = None
    participant_id: Any = None


_ids_decoder = msgspec.json.Decoder(Ids)


def names_program(raw: bytes) -> bool:
    """Whether the event says, as an event can, whose it is; without that no other mistake is worth telling first."""
    try:
        text = _ids_decoder.decode(raw).program_id
    except msgspec.MsgspecError:  # no object at all, or a number beyond what is kept: for others to explain
        return True
    return isinstance(text, str) and program(text) is not None


def readable_ids(raw: bytes) -> dict[str, str]:
    """The ids of an event that was refused, those that can be read at all."""
    try:
        ids = msgspec.structs.asdict(_ids_decoder.decode(raw))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return {name: value for name, value in ids.items() if isinstance(value, str) and len(value) <= NAME_CHARACTERS_MAX}
