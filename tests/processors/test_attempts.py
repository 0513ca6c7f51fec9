"""What an attempt's outcome means: completed, failed for good, or tried again and when."""

import pytest

from processors.attempts import ATTEMPTS_MAX, Attempted, delay_after, judge
from processors.handling import Job, Reject
from processors.records import Arrival, read_record
from processors.runner import Outcome
from schemas.reader import EventReader
from tests.processors.lab import payload, record

PROGRAM = "aaaaaaaa-2222-4333-8444-555555555555"


def _judged(attempt: int, outcome: Outcome) -> Attempted:
    arrival = read_record(EventReader(1_000), record(payload(PROGRAM, "k"), PROGRAM.encode(), 5))
    assert isinstance(arrival, Arrival)
    return judge(arrival, Job(arrival.event, attempt, arrival.received_at), outcome)


def test_five_delays_between_six_attempts() -> None:
    assert ATTEMPTS_MAX == 6
    assert [delay_after(attempt).total_seconds() for attempt in range(1, ATTEMPTS_MAX)] == [2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("attempt", "outcome", "expected"),
    [
        (1, None, ("COMPLETED", None, None, None)),
        (6, b"{}", ("COMPLETED", None, None, b"{}")),
        (1, ValueError("x"), ("PROCESSING", "handler_failed", "ValueError: x", None)),
        (5, ValueError("x"), ("PROCESSING", "handler_failed", "ValueError: x", None)),
        (6, ValueError("x"), ("FAILED", "handler_failed", "ValueError: x", None)),
        (1, Reject("c", "m"), ("FAILED", "c", "m", None)),
        (1, Reject("c" * 2_000, "\0\ud800"), ("FAILED", "c" * 1_000, "\\0?", None)),
        (6, SystemExit(1), ("FAILED", "handler_failed", "SystemExit: 1", None)),
    ],
)
def test_an_outcome_and_its_status(attempt: int, outcome: Outcome, expected: tuple[object, ...]) -> None:
    one = _judged(attempt, outcome)
    assert (one.status, one.error_code, one.error_message, one.result) == expected
    assert one.failed is (expected[0] == "FAILED")


def test_the_dead_letter_of_a_failed_event_has_its_code_reason_and_record() -> None:
    letter = _judged(1, Reject("c", "m")).letter()
    assert (letter.code, letter.reason, letter.record.offset) == ("c", "m", 5)
    assert letter.event_id is not None
    assert _judged(1, Reject("", "")).letter().code == "handler_failed"
