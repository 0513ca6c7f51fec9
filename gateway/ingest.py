"""The way of an event through the gateway: bytes → what is to be done → answer. Decisions only, no I/O.

Read top to bottom: a body is read into items; the claims say whose payload each key has; what agrees is produced; each
item is answered in the order it came.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from gateway.batches import EVENTS_MAX, NotJsonError, split_batch
from schemas.errors import IDEMPOTENCY_CONFLICT, INVALID_EVENT, INVALID_JSON, INVALID_PROGRAM_ID, UNAVAILABLE, ErrorCode
from schemas.event import Event, InvalidEventError, readable_ids
from schemas.identity import uuid_text
from schemas.reader import EventReader

PENDING = "PENDING"


class Refusal(NamedTuple):
    """Why an item is not accepted; `field` is empty where no single field is to blame."""

    code: ErrorCode
    message: str
    field: str
    ids: dict[str, str]


Item = Event | Refusal


class Owner(msgspec.Struct, frozen=True, gc=False):
    """Whose payload a key has: the winner's fingerprint (16 bytes), and its event's present status."""

    fingerprint: bytes
    status: str


class EventAnswer(msgspec.Struct, gc=False):
    """An event as ingestion answers it."""

    id: str
    idempotency_key: str
    program_id: str
    participant_id: str | None
    external_id: str | None
    event_timestamp: str
    status: str


class AcceptedItem(msgspec.Struct, gc=False):
    """A batch item that Kafka has."""

    index: int
    event: EventAnswer
    status: Literal["accepted"] = "accepted"


class RefusedItem(msgspec.Struct):
    """A batch item that was not accepted, and whether sending it again can help."""

    index: int
    error: str
    code: str
    retryable: bool
    event: dict[str, Any]
    status: Literal["error"] = "error"


class BatchAnswer(msgspec.Struct):
    """The answer to a batch: `total` = `success_count` + `error_count`, results in the order of the input."""

    total: int
    success_count: int
    error_count: int
    results: list[AcceptedItem | RefusedItem]


def read_items(reader: EventReader, body: bytes, may_use: Callable[[bytes], bool]) -> list[Item]:
    """Read each event of a batch. Raises :class:`NotJsonError` or :class:`BadBatchError` for the batch as a whole."""
    events = reader.read_batch(body)
    if events is not None and 1 <= len(events) <= EVENTS_MAX and all(map(may_use, _programs(events))):
        return list[Item](events)
    items = [read_item(reader, raw, may_use) for raw in split_batch(body)]
    if any(isinstance(item, Refusal) and item.code is INVALID_JSON and not item.field for item in items):
        raise NotJsonError
    return items


def _programs(events: Sequence[Event]) -> set[bytes]:
    return {event.program.packed for event in events}


def read_item(reader: EventReader, raw: bytes, may_use: Callable[[bytes], bool]) -> Item:
    """Read one event, which is for a program that the key may use (`may_use` takes its 16 bytes)."""
    try:
        event = reader.read(raw)
    except InvalidEventError as error:
        return Refusal(error.code, str(error), error.field, readable_ids(raw))
    if may_use(event.program.packed):
        return event
    return Refusal(INVALID_PROGRAM_ID, "invalid program_id", "program_id", readable_ids(raw))


def first_of_each(items: Sequence[Item]) -> dict[bytes, Event]:
    """The events by id; of several with one id the first, since the later item of a batch loses."""
    return {item.id: item for item in reversed(items) if isinstance(item, Event)}


def owners_within(items: Sequence[Item], first: Mapping[bytes, Event]) -> dict[bytes, Owner]:
    """The owners that the request itself can tell, of the ids that come several times: the first event of each."""
    if len(first) == len(items):
        return {}
    times = Counter(item.id for item in items if isinstance(item, Event))
    return {id_: Owner(first[id_].fingerprint, PENDING) for id_, count in times.items() if count > 1}


def judge(items: list[Item], owners: Mapping[bytes, Owner]) -> list[Item]:
    """Refuse what carries another payload than its key's owner; whose owner is not told owns its key itself."""
    if not owners:
        return items
    return [
        _refuse(item, IDEMPOTENCY_CONFLICT, "the idempotency_key was used with a different payload")
        if isinstance(item, Event) and item.id in owners and owners[item.id].fingerprint != item.fingerprint
        else item
        for item in items
    ]


def refuse_lost(items: list[Item], lost: set[int]) -> list[Item]:
    """Refuse the items at the indexes `lost`, which Kafka did not acknowledge in time."""
    if not lost:
        return items
    message = "Kafka did not acknowledge in time; send it again"
    return [
        _refuse(item, UNAVAILABLE, message) if index in lost and isinstance(item, Event) else item
        for index, item in enumerate(items)
    ]


def answer_batch(items: Sequence[Item], owners: Mapping[bytes, Owner]) -> BatchAnswer:
    """The answer to a batch."""
    results = [_answer_item(index, item, owners) for index, item in enumerate(items)]
    refused = sum([isinstance(item, Refusal) for item in items])
    return BatchAnswer(len(items), len(items) - refused, refused, results)


def status_of(event: Event, owners: Mapping[bytes, Owner]) -> str:
    """The present status of an event that was accepted."""
    return owners[event.id].status if event.id in owners else PENDING


def answer_event(event: Event, status: str) -> EventAnswer:
    """An accepted event as answers show it."""
    return EventAnswer(
        uuid_text(event.id),
        event.idempotency_key,
        event.program.text,
        event.participant_id,
        event.external_id,
        event.event_timestamp,
        status,
    )


def _answer_item(index: int, item: Item, owners: Mapping[bytes, Owner]) -> AcceptedItem | RefusedItem:
    if isinstance(item, Refusal):
        # A batch's codes are those of single events; what is no JSON at all is no valid event either.
        code = INVALID_EVENT if item.code is INVALID_JSON else item.code
        return RefusedItem(index, item.message, code.code, code.retryable, dict(item.ids))
    return AcceptedItem(index, answer_event(item, status_of(item, owners)))


def _refuse(event: Event, code: ErrorCode, message: str) -> Refusal:
    ids = {
        "id": uuid_text(event.id),
        "idempotency_key": event.idempotency_key,
        "program_id": event.program.text,
        "event_timestamp": event.event_timestamp,
    }
    if event.external_id is not None:
        ids["external_id"] = event.external_id
    if event.participant_id is not None:
        ids["participant_id"] = event.participant_id
    return Refusal(code, message, "", ids)
