"""What the processors tell Kafka: final statuses and dead letters. At least once: again when a chunk is read again."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache

from msgspec import json

from processors.attempts import Attempted
from processors.ports import Outgoing
from processors.records import Arrival, BadRecord, record_time
from processors.store import FINAL, Standing
from processors.written import Written
from schemas.errors import HANDLER_FAILED
from schemas.identity import uuid_text
from schemas.timestamps import timestamp_text

_encode = json.Encoder().encode

# Below what the topics take (schemas/topics.py). A compressed record can be larger than its topic seems to take.
RECORD_BYTES_MAX = 2_097_152 - 65_536


def status_record(arrival: Arrival, status: str, error_code: str | None, processed_at: str) -> Outgoing:
    """One event's final status, its names and when it got it; `processed_at` as answers spell it."""
    value = arrival.names + _status_end(status, error_code, processed_at)
    return Outgoing(arrival.event.program.key, value)


@lru_cache(maxsize=64)
def _status_end(status: str, error_code: str | None, processed_at: str) -> bytes:
    """What the status records of one bundle have in common."""
    return _encode({"status": status, "error_code": error_code, "processed_at": processed_at})[1:]


def written(attempted: Sequence[Attempted], letters: list[BadRecord], now: datetime) -> Written:
    """What attempts that ended `now` leave to be told; those that are to be made again are only counted."""
    processed = processed_text(now)
    statuses = [status_record(one.arrival, one.status, one.error_code, processed) for one in attempted if one.final]
    return Written({}, statuses, letters, retries=len(attempted) - len(statuses))


def processed_text(processed_at: datetime | None) -> str:
    """When an event got its status, as status records spell it."""
    return "" if processed_at is None else timestamp_text(processed_at)


def tell_again(written: Written, arrival: Arrival, standing: Standing) -> None:
    """Add to `written` the final status, and the dead letter, of an event whose row stands already."""
    if standing.status not in FINAL:
        return
    processed = processed_text(standing.processed_at)
    written.statuses.append(status_record(arrival, standing.status, standing.error_code, processed))
    if standing.status == "FAILED":
        event = arrival.event
        code, reason = standing.error_code or HANDLER_FAILED, standing.error_message or ""
        written.letters.append(BadRecord(code, reason, arrival.record, event.program.packed, event.id))


def dead_letter_records(letters: Iterable[BadRecord]) -> list[Outgoing]:
    """Dead letters for ``events.dlq``: the original bytes, and in the headers what is wrong and where it stood.

    A record too large for the topic has a header ``omitted-bytes`` in their place; the table of dead letters has them.
    """
    return [_dead_letter(letter) for letter in letters]


def _dead_letter(letter: BadRecord) -> Outgoing:
    record = letter.record
    headers = [
        ("code", letter.code.encode()),
        ("reason", letter.reason.encode(errors="replace")),
        ("topic", record.topic.encode()),
        ("partition", str(record.partition).encode()),
        ("offset", str(record.offset).encode()),
        ("first-seen", timestamp_text(record_time(record)).encode()),
    ]
    key = record.key if letter.program_id is None else uuid_text(letter.program_id).encode()
    size = len(key or b"") + len(record.value or b"")
    if size <= RECORD_BYTES_MAX:
        return Outgoing(key, record.value, headers)
    return Outgoing(None, None, [*headers, ("omitted-bytes", str(size).encode())])
