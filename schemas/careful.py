"""The careful way from bytes to an event, which knows every rule, and says what is wrong.

What is of plain spelling is read by :mod:`schemas.reader` before it comes here.
"""

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from uuid import UUID

import msgspec

from schemas import exact
from schemas.errors import EVENT_TOO_LARGE, INVALID_EVENT, INVALID_JSON, INVALID_PROGRAM_ID
from schemas.event import Event, Fields, InvalidEventError, names_program
from schemas.identity import Program, event_id, program
from schemas.timestamps import read_timestamp

# Of long numbers, written out; an event of plain spellings has no more digits than bytes.
_DIGITS_MAX = 262_144


class _Batch(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    events: list[Fields]


class CarefulReader:
    """Reads events whose serialized `event_data` is at most `max_event_bytes` long. Not for use by several threads."""

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._digits_max = max(_DIGITS_MAX, 4 * max_event_bytes)
        self._numbers = exact.NumberReader(self._digits_max)
        self._decode = msgspec.json.Decoder(Fields, float_hook=self._numbers.hook).decode
        self._decode_batch = msgspec.json.Decoder(_Batch, float_hook=self._numbers.hook).decode
        encoder = msgspec.json.Encoder(order="deterministic", decimal_format="number")
        self._encode, self._encode_lines = encoder.encode, encoder.encode_lines
        self._colons_normalized = 0  # of what is being read

    def read(self, raw: bytes) -> Event:
        """The event that the JSON object `raw` holds. Raises :class:`InvalidEventError`."""
        self._restart()
        try:
            fields = self._decode(raw)
        except _NOT_DECODED as error:
            raise explain(raw, error, self._digits_max) from None
        return self._checked(raw, fields)

    def _checked(self, raw: bytes, fields: Fields) -> Event:
        """The event of `fields`, as which `raw` was decoded. Raises :class:`InvalidEventError`."""
        self._colons_normalized = 0
        event = self._event(fields)
        colons = self._colons_normalized
        if not exact.looks_exact(raw, event.record, colons, fields.event_data):
            nulls = _nulls_given(raw)
            if not (nulls and exact.looks_exact(raw, event.record, colons + nulls, fields.event_data)):
                _refuse_faults(raw, self._digits_max)
        return event

    def read_batch(self, raw: bytes) -> list[Event] | None:
        """The events of the JSON object ``{"events": [...]}``, or None where they must be read one by one.

        That is where `raw` is no such object, or one of its events is not sure to be good. A batch of good events costs
        a third less this way.
        """
        self._restart()
        try:
            decoded = self._decode_batch(raw).events
            events = [self._event(fields) for fields in decoded]
        except (*_NOT_DECODED, InvalidEventError):
            return None
        return events if self._look_exact(raw, events, decoded) else None

    def read_many(self, raws: Sequence[bytes]) -> list[Event | InvalidEventError]:
        """What :meth:`read` gives for each of the JSON objects `raws`, or raises: at a quarter less, where all is well.

        That is where each can be decoded; and what is in canonical form already, as gateways publish it, costs less.
        """
        self._restart()
        try:
            decoded = list(map(self._decode, raws))
        except _NOT_DECODED:
            return [self._read_or_error(raw) for raw in raws]
        lines = self._encode_lines(decoded)
        events: list[Event | InvalidEventError | None]
        if lines == b"\n".join([*raws, b""]) and exact.hides_nothing(lines):
            events = list(map(self._canonical, raws, decoded))
        else:
            events = [
                self._canonical(raw, fields) if raw == line and exact.hides_nothing(raw) else None
                for raw, fields, line in zip(raws, decoded, lines.split(b"\n"), strict=False)  # the last line is empty
            ]
        checked = self._checked_or_error
        return [event or checked(raw, fields) for event, raw, fields in zip(events, raws, decoded, strict=True)]

    def _canonical(self, raw: bytes, fields: Fields) -> Event | None:
        """The event of `raw` where its record is sure to be the same bytes.

        `fields` are encoded as `raw`, in which no escape hides anything.
        """
        owner = program(fields.program_id)
        if owner is None or owner.text != fields.program_id or len(raw) > self._max_event_bytes:
            return None
        try:
            _, text = read_timestamp(fields.event_timestamp)
        except ValueError:
            return None
        if text is not fields.event_timestamp or (fields.external_id is None and fields.participant_id is None):
            return None
        if not exact.depth_is_kept(raw, raw.count(b":"), fields.event_data):
            return None
        return _made(owner, fields, raw)

    def _read_or_error(self, raw: bytes) -> Event | InvalidEventError:
        try:
            return self.read(raw)
        except InvalidEventError as error:
            return error

    def _checked_or_error(self, raw: bytes, fields: Fields) -> Event | InvalidEventError:
        try:
            return self._checked(raw, fields)
        except InvalidEventError as error:
            return error

    def _restart(self) -> None:
        self._numbers.restart()
        self._colons_normalized = 0

    def _event(self, fields: Fields) -> Event:
        """The event of these fields, apart from its exactness; brings them into their canonical form."""
        owner = program(fields.program_id)
        if owner is None:
            raise InvalidEventError(INVALID_PROGRAM_ID, "program_id", "must be a UUID")
        try:
            _, text = read_timestamp(fields.event_timestamp)
        except ValueError as error:
            raise InvalidEventError(INVALID_EVENT, "event_timestamp", str(error)) from None
        if fields.external_id is None and fields.participant_id is None:
            raise InvalidEventError(INVALID_EVENT, "external_id", "is required where there is no participant_id")
        if text is not fields.event_timestamp:
            self._colons_normalized += fields.event_timestamp.count(":") - text.count(":")
            fields.event_timestamp = text
        fields.program_id = owner.text
        record = self._encode(fields)
        event = _made(owner, fields, record)
        # The other fields take a few kilobytes at the most: only a long record can hold too much data.
        if len(record) > self._max_event_bytes and len(event.data) > self._max_event_bytes:
            message = f"is {len(event.data)} bytes; at most {self._max_event_bytes} are accepted"
            raise InvalidEventError(EVENT_TOO_LARGE, "event_data", message)
        return event

    def _look_exact(self, raw: bytes, events: Sequence[Event], decoded: Sequence[Fields]) -> bool:
        """As `exact.looks_exact`, for a whole batch: where no event has more colons than in `raw`, sums will do."""
        colons = 1 + self._colons_normalized  # that of `events` itself
        for event, fields in zip(events, decoded, strict=True):
            own = event.record.count(b":")
            if not exact.depth_is_kept(event.record, own, fields.event_data):
                return False
            colons += own
        if not exact.hides_nothing(raw):
            return False
        missing = raw.count(b":") - colons
        return missing == 0 or missing == _nulls_given_in_batch(raw)


def _made(owner: Program, fields: Fields, record: bytes) -> Event:
    return Event(
        event_id(owner.packed, fields.idempotency_key),
        sha256(record).digest()[:16],
        owner,
        fields.idempotency_key,
        fields.event_timestamp,
        fields.external_id,
        _text(fields.participant_id),
        fields.recipient_external_id,
        _text(fields.recipient_id),
        record,
    )


def _text(uuid: UUID | None) -> str | None:
    return None if uuid is None else str(uuid)


_NOT_DECODED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Optional(msgspec.Struct, gc=False):
    """The fields that may be null, which counts as not given: the record says nothing of them."""

    external_id: Any = True
    participant_id: Any = True
    recipient_external_id: Any = True
    recipient_id: Any = True

    def nulls(self) -> int:
        return (
            (self.external_id is None)
            + (self.participant_id is None)
            + (self.recipient_external_id is None)
            + (self.recipient_id is None)
        )


class _OptionalBatch(msgspec.Struct, gc=False):
    events: list[_Optional]


_decode_optional = msgspec.json.Decoder(_Optional).decode
_decode_optional_batch = msgspec.json.Decoder(_OptionalBatch).decode


def _nulls_given(raw: bytes) -> int:
    return _decode_optional(raw).nulls()


def _nulls_given_in_batch(raw: bytes) -> int:
    return sum([each.nulls() for each in _decode_optional_batch(raw).events])


def _refuse_faults(raw: bytes, digits_max: int) -> None:
    fault = exact.find_fault(raw, digits_max)
    if fault is not None:
        raise InvalidEventError(INVALID_EVENT, *fault)


_missing = re.compile(r"Object missing required field `(.*?)`").match
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_located = re.compile(r"(.*?) - at `(?:key in )?\$\.?(.*)`", re.DOTALL).fullmatch


def explain(raw: bytes, error: Exception, digits_max: int) -> InvalidEventError:
    """Say of an event that could not be decoded which field is wrong and why."""
    try:
        _refuse_faults(raw, digits_max)
    except InvalidEventError as fault:
        return fault
    except UnicodeDecodeError:
        return InvalidEventError(INVALID_JSON, "event", "is not UTF-8")
    except ValueError:
        return InvalidEventError(INVALID_JSON, "", "is not JSON")
    if not names_program(raw):
        return InvalidEventError(INVALID_PROGRAM_ID, "program_id", "must be a UUID")
    return InvalidEventError(INVALID_EVENT, *_mistake(raw, str(error)))


def _mistake(raw: bytes, text: str) -> tuple[str, str]:
    """The field and the message that the decoder's `text` comes to."""
    missing = _missing(text)
    if missing is not None:
        return missing.group(1), "is required"
    if text.startswith("Object contains unknown field"):
        name = next(name for name in _decode_members(raw) if name not in Fields.__struct_fields__)
        return exact.member_path("", name), "is not a field of an event"
    located = _located(text)
    message, field = (text, "") if located is None else located.groups()
    return field, message.replace("`", "")
