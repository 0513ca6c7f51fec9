"""A small round by hand, with nothing wrong: what the checker's own tests spoil, one thing at a time."""

import json
import time
from collections.abc import Sequence
from typing import Any

from schemas import topics
from tests.chaos import truth
from tests.chaos.evidence import Entry, Evidence, Letter, Position, Row
from tests.chaos.journal import Journal
from tests.chaos.kafka_view import LogRecord
from tests.chaos.money import Money
from tests.chaos.truth import Accepted
from tests.model import Sent

PROGRAM = "0b0e7c1e-0000-4000-8000-000000000001"
GARBAGE = b"not json"
_HEADERS = (("received-at", b"2026-01-01T00:00:00Z"),)


def sends() -> list[Sent]:
    """Four events; the first one sent twice, the second one followed by another payload, the fourth one refused."""
    traffic = Money(1, [PROGRAM], "http", failing=False)
    first, second, third, fourth = traffic.make(4, 0.0, 0.0)
    (conflict,) = traffic.make(1, 0.0, 1.0, [second])
    fourth = fourth._replace(payload=fourth.payload | {"event_data": _data(fourth) | {"do": "reject"}})
    return [first, second, Sent("http", dict(first.payload)), Sent("kafka", conflict.payload), third, fourth]


def _data(sent: Sent) -> dict[str, Any]:
    data = sent.payload["event_data"]
    assert isinstance(data, dict)
    return data


def journal_of(sent: Sequence[Sent]) -> Journal:
    """Every send was acknowledged, and one record that is no event."""
    journal = Journal()
    for one in sent:
        journal.sending(one)
        journal.answered(one, "accepted", time.time())
    journal.garbage[GARBAGE] = True
    return journal


def evidence_of(sent: Sequence[Sent], journal: Journal) -> Evidence:
    """What must be found after them."""
    spelling = Money(2, [PROGRAM], "http", failing=False)
    records = [
        LogRecord(0, at, PROGRAM.encode(), spelling.spell(one.payload).encode(), _HEADERS if one.door == "http" else ())
        for at, one in enumerate(sent)
    ]
    records.append(LogRecord(0, len(sent), None, GARBAGE, ()))
    events = list(truth.read(journal, records).events.values())
    letters = [Letter(topics.EVENTS, 0, at, code) for at, code in _letters(events, len(sent))]
    return Evidence(
        records,
        [_status(at, event) for at, event in enumerate(events)],
        [_dead_record(at, letter) for at, letter in enumerate(letters)],
        [Position(topics.EVENTS, 0, len(records), len(records), len(records))],
        [_row(event) for event in events],
        0,
        [
            Entry(number, event.id, PROGRAM, account, cents, 1)
            for number, (event, account, cents) in enumerate(
                (event, account, cents) for event in events for account, cents in truth.entries_of(event)
            )
        ],
        letters,
        [],
        [],
        [],
        {(PROGRAM, "COMPLETED"): 3, (PROGRAM, "FAILED"): 1},
    )


def _letters(events: Sequence[Accepted], garbage_at: int) -> list[tuple[int, str]]:
    conflicts = [(record.offset, "idempotency_conflict") for event in events for record in event.conflicts]
    failed = [(event.first.offset, "not_wanted") for event in events if truth.expected(event.payload).error_code]
    return [*conflicts, *failed, (garbage_at, "unreadable_record")]


def _row(event: Accepted) -> Row:
    wanted = truth.expected(event.payload)
    return Row(
        event.id,
        dict(event.payload),
        wanted.status,
        "EXTERNAL",
        wanted.error_code,
        wanted.attempts,
        len(event.copies),
        len(event.conflicts),
        event.first.offset,
    )


def _status(at: int, event: Accepted) -> LogRecord:
    value = {"id": event.id, "status": truth.expected(event.payload).status}
    return LogRecord(0, at, PROGRAM.encode(), json.dumps(value).encode(), ())


def _dead_record(at: int, letter: Letter) -> LogRecord:
    named = {name: str(value).encode() for name, value in letter._asdict().items()}
    return LogRecord(0, at, None, None, tuple(named.items()))
