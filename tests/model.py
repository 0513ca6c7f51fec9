"""The contract in ten lines: what a list of sends leaves behind."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Payload = dict[str, object]


class Sent(NamedTuple):
    """One send: through which door, and the event. `payload` holds values, whatever their spelling on the way."""

    door: Literal["http", "kafka"]
    payload: Payload


@dataclass
class Stored:
    """One event as it must be found."""

    first: Sent
    duplicates: int = 0
    conflicts: int = 0


def model(sends: Iterable[Sent]) -> dict[tuple[object, object], Stored]:
    """The events by (program_id, idempotency_key). The first payload wins; HTTP refuses others, Kafka cannot."""
    events: dict[tuple[object, object], Stored] = {}
    for sent in sends:
        key = sent.payload["program_id"], sent.payload["idempotency_key"]
        stored = events.setdefault(key, Stored(sent))
        if sent.payload != stored.first.payload:
            stored.conflicts += sent.door == "kafka"
        elif sent is not stored.first:
            stored.duplicates += 1
    return events
