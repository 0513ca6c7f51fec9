"""Status records and dead letters as Kafka gets them."""

import json
import uuid
from datetime import UTC, datetime

import pytest

from processors import outbox
from processors.records import Arrival, BadRecord, read_record
from schemas.reader import EventReader
from tests.processors.lab import payload, record

PROGRAM = uuid.UUID("aaaaaaaa-2222-4333-8444-555555555555")


def test_a_status_record_is_as_the_contract_says() -> None:
    arrival = read_record(EventReader(1_000), record(payload(str(PROGRAM), "ключ"), str(PROGRAM).encode(), 5))
    assert isinstance(arrival, Arrival)
    processed = outbox.processed_text(datetime(2024, 1, 2, 3, 4, 5, 60, tzinfo=UTC))
    told = outbox.status_record(arrival, "FAILED", "not_wanted", processed)
    assert told.key == str(PROGRAM).encode()
    assert json.loads(told.value or b"") == {
        "id": str(uuid.uuid5(PROGRAM, "ключ")),
        "program_id": str(PROGRAM),
        "idempotency_key": "ключ",
        "status": "FAILED",
        "error_code": "not_wanted",
        "processed_at": "2024-01-02T03:04:05.00006Z",
    }


@pytest.mark.parametrize("program_id", [None, PROGRAM.bytes])
def test_a_dead_letter_has_the_bytes_and_where_they_stood(program_id: bytes | None) -> None:
    bad = record(b"\xff\0", b"some key", 9, partition=4, topic="events", headers=[("mine", b"1")])
    (letter,) = outbox.dead_letter_records([BadRecord("invalid_event", "a: b\ud800", bad, program_id)])
    assert letter.key == (b"some key" if program_id is None else str(PROGRAM).encode())
    assert letter.value == b"\xff\0"
    assert list(letter.headers) == [
        ("code", b"invalid_event"),
        ("reason", b"a: b?"),
        ("topic", b"events"),
        ("partition", b"4"),
        ("offset", b"9"),
        ("first-seen", b"2023-11-14T22:13:20Z"),
    ]


def test_what_is_too_large_for_the_topic_is_told_without_its_bytes() -> None:
    fits = record(bytes(outbox.RECORD_BYTES_MAX - 3), b"key", 0)
    huge = record(bytes(outbox.RECORD_BYTES_MAX - 2), b"key", 1)
    first, second = outbox.dead_letter_records([BadRecord("c", "r", fits), BadRecord("c", "r", huge)])
    assert first.value == fits.value
    assert (second.key, second.value) == (None, None)
    assert dict(second.headers)["omitted-bytes"] == str(outbox.RECORD_BYTES_MAX + 1).encode()
