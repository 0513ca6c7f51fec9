"""Records from anybody: what is an event, what is a dead letter, and that no header or timestamp can do harm."""

import json
import uuid
from datetime import UTC, datetime

import pytest

from processors.records import EXTERNAL, SYSTEM, Arrival, BadRecord, header, read_record, record_time
from schemas.reader import EventReader
from tests.processors.lab import payload, record

PROGRAM = "aaaaaaaa-2222-4333-8444-555555555555"
KEY = PROGRAM.encode()
GOOD = payload(PROGRAM, "k", {"a": 1})
READER = EventReader(1_000)


def _bad(value: bytes | None, key: bytes | None = KEY) -> BadRecord:
    read = read_record(READER, record(value, key, 7))
    assert isinstance(read, BadRecord)
    assert read.record.offset == 7
    return read


@pytest.mark.parametrize(
    ("value", "code", "reason"),
    [
        (None, "unreadable_record", "the record has no value"),
        (b"", "unreadable_record", "is not JSON"),
        (b"\xff\xfe{", "unreadable_record", "event: is not UTF-8"),
        (GOOD[:-1], "unreadable_record", "is not JSON"),
        (GOOD.decode().encode("utf-16"), "unreadable_record", "event: is not UTF-8"),
        (b"[" * 100_000, "invalid_event", "is nested deeper than 100 levels"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "invalid_event", "is nested deeper than 100 levels"),
        (b"[]", "invalid_event", "Expected object, got array"),
        (payload("not-a-uuid", "k"), "invalid_program_id", "invalid program_id"),
        (payload(PROGRAM, "k", colour="red"), "invalid_event", "colour: is not a field of an event"),
        (payload(PROGRAM, "k", **{"a\0b": 1}), "invalid_event", '["a\\u0000b"]: contains a NUL'),
        (payload(PROGRAM, ""), "invalid_event", "idempotency_key: "),
        (payload(PROGRAM, "k", {"a": "\0"}), "invalid_event", "event_data.a: contains a NUL"),
        (payload(PROGRAM, "k", {"a": "x" * 1_000}), "event_too_large", "event_data: is 1008 bytes; at most 1000"),
        (payload(PROGRAM, "k", event_timestamp="2024-01-15"), "invalid_event", "event_timestamp: "),
        (payload(PROGRAM, "k", external_id=None), "invalid_event", "external_id: "),
    ],
)
def test_what_is_no_event_is_a_dead_letter(value: bytes | None, code: str, reason: str) -> None:
    bad = _bad(value)
    assert bad.code == code
    assert reason in bad.reason
    assert "\0" not in bad.reason
    assert (bad.program_id, bad.event_id) == (None, None)


@pytest.mark.parametrize("key", [None, b"", b"other", PROGRAM.upper().encode(), KEY + b" ", uuid.UUID(PROGRAM).bytes])
def test_a_key_that_is_not_the_program_is_a_dead_letter_that_says_whose(key: bytes | None) -> None:
    bad = _bad(GOOD, key)
    assert bad.code == "key_mismatch"
    assert (bad.program_id, bad.event_id) == (uuid.UUID(PROGRAM).bytes, uuid.uuid5(uuid.UUID(PROGRAM), "k").bytes)


def test_a_reason_is_short_whatever_the_record_says() -> None:
    assert len(_bad(payload(PROGRAM, "k", **{"x" * 900_000: 1})).reason) <= 1_000


@pytest.mark.parametrize(
    ("value", "received_at"),
    [
        (b"2024-01-15T10:30:00.5Z", datetime(2024, 1, 15, 10, 30, 0, 500_000, tzinfo=UTC)),
        (b"2024-01-15T10:30:00+02:00", datetime(2024, 1, 15, 8, 30, tzinfo=UTC)),
        (b"9999-12-31T23:59:59.999999Z", datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ],
)
def test_the_gateway_says_when_it_received_an_event(value: bytes, received_at: datetime) -> None:
    read = read_record(READER, record(GOOD, KEY, 3, headers=[("received-at", value)]))
    assert isinstance(read, Arrival)
    assert (read.received_at, read.event_type, read.offset) == (received_at, EXTERNAL, 3)
    assert read.received_at.tzinfo is UTC


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"yesterday",
        b"\xff",
        b"2024-01-15T10:30:00",
        b"0001-01-01T00:00:00+01:00",
        b"9999-12-31T23:59:59-01:00",
    ],
)
def test_a_header_that_names_no_instant_is_as_none(value: bytes | None) -> None:
    headers = [("received-at", value)]
    read = read_record(READER, record(GOOD, KEY, 0, headers=headers))  # type: ignore[arg-type]
    assert isinstance(read, Arrival)
    assert (read.received_at, read.event_type) == (datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), SYSTEM)


@pytest.mark.parametrize(
    ("timestamp", "year"), [(-1, 1970), (0, 1970), (1_700_000_000_000, 2023), (2**63 - 1, 9999), (-(2**63), 1970)]
)
def test_any_timestamp_of_a_record_is_some_time(timestamp: int, year: int) -> None:
    assert record_time(record(GOOD, KEY, 0, timestamp=timestamp)).year == year


def test_the_first_header_of_a_name_counts() -> None:
    assert header([("a", b"1"), ("b", b"2"), ("b", b"3")], "b") == b"2"
    assert header([("a", b"1")], "b") is None


def test_hints_in_headers_change_nothing_that_can_be_computed() -> None:
    headers = [("id", b"x" * 16), ("fingerprint", b"y" * 16)]
    read = read_record(READER, record(GOOD, KEY, 0, headers=headers))
    assert isinstance(read, Arrival)
    assert read.event.id == uuid.uuid5(uuid.UUID(PROGRAM), "k").bytes
    assert json.loads(read.event.record)["event_data"] == {"a": 1}
