"""What the topic `events` says was accepted: by key, whose payload came first, and how often each came."""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from tests.chaos.journal import Journal, Key, key_of
from tests.chaos.kafka_view import LogRecord
from tests.chaos.money import data_of, variant_of
from tests.model import Payload


class Accepted(NamedTuple):
    """One key's event: the record that won, the records that repeat it, and those that carry another payload."""

    key: Key
    payload: Payload
    first: LogRecord
    copies: list[LogRecord]
    conflicts: list[LogRecord]
    variants: set[int]

    @property
    def id(self) -> str:
        """The event's id."""
        return event_id(self.key)


class Truth(NamedTuple):
    """What was accepted, what is garbage, and what nobody here has sent."""

    events: dict[Key, Accepted]
    garbage: list[LogRecord]
    foreign: list[str]


class Expected(NamedTuple):
    """What must become of an event."""

    status: str
    error_code: str | None
    attempts: int


def event_id(key: Key) -> str:
    """The id of the event with this key."""
    return str(uuid.uuid5(uuid.UUID(key[0]), key[1]))


def expected(payload: Payload) -> Expected:
    """What the ledger's handler makes of an event."""
    data = data_of(payload)
    wanted = data.get("do")
    if wanted == "reject":
        return Expected("FAILED", "not_wanted", 1)
    return Expected("COMPLETED", None, int(data["attempt"]) if wanted == "until" else 1)


def read(journal: Journal, records: Iterable[LogRecord]) -> Truth:
    """Read the records, which are in log order within each partition."""
    truth = Truth({}, [], [])
    for record in records:
        if record.value in journal.garbage:
            truth.garbage.append(record)
            continue
        payload = _payload(record)
        if payload is None or payload != journal.payloads.get(key_of(payload), {}).get(variant_of(payload)):
            truth.foreign.append(f"{record.partition}@{record.offset}: {record.value!r:.300}")
            continue
        _add(truth.events, payload, record)
    return truth


def _add(events: dict[Key, Accepted], payload: Payload, record: LogRecord) -> None:
    key, variant = key_of(payload), variant_of(payload)
    known = events.get(key)
    if known is None:
        events[key] = Accepted(key, payload, record, [], [], {variant})
        return
    known.variants.add(variant)
    (known.copies if variant == variant_of(known.payload) else known.conflicts).append(record)


def _payload(record: LogRecord) -> Payload | None:
    try:
        payload: Payload = json.loads(record.value or b"", parse_float=_number)
        payload["event_timestamp"] = datetime.fromisoformat(str(payload["event_timestamp"]))
        variant_of(payload)
    except (ValueError, KeyError, TypeError, AssertionError):
        return None
    return payload if str(payload.get("program_id")).encode() == record.key else None


def _number(text: str) -> Decimal | int:
    number = Decimal(text)
    return int(number) if number == number.to_integral_value() else number


def amounts(entries: Iterable[tuple[str, str, int]]) -> dict[tuple[str, str], int]:
    """What each account of each program holds, from (program, account, cents)."""
    held: dict[tuple[str, str], int] = {}
    for program, account, cents in entries:
        held[program, account] = held.get((program, account), 0) + cents
    return held


def entries_of(event: Accepted) -> Iterator[tuple[str, int]]:
    """The entries that the event must have left: (account, cents), in order."""
    data: Mapping[str, Any] = data_of(event.payload)
    if expected(event.payload).status == "COMPLETED":
        cents = int(data["amount"] * 100)
        yield data["from"], -cents
        yield data["to"], cents
