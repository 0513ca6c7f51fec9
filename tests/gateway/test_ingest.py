"""The decisions of ingestion, by generated batches: counts add up, order stays, and the first payload of a key wins."""

import json
import uuid
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import ingest
from gateway.batches import BadBatchError, NotJsonError
from gateway.ingest import AcceptedItem, BatchAnswer, Item, Owner, Refusal, RefusedItem
from schemas.errors import INVALID_PROGRAM_ID, UNAVAILABLE
from schemas.event import Event
from schemas.reader import EventReader
from tests.gateway.test_batches import SURROGATE, batch_of
from tests.schemas.events import PROGRAM, event_text

READER = EventReader(65_536)
OTHER_PROGRAM = str(uuid.UUID(int=7))


def anybody(_: bytes) -> bool:
    return True


def read(*raws: bytes, may_use: Callable[[bytes], bool] = anybody) -> list[Item]:
    return ingest.read_items(READER, batch_of(*raws), may_use)


def answered(items: list[Item], owners: dict[bytes, Owner] | None = None) -> BatchAnswer:
    first = ingest.first_of_each(items)
    owners = ingest.owners_within(items, first) | (owners or {})
    return ingest.answer_batch(ingest.judge(items, owners), owners)


def spelled(key: str, amount: str) -> bytes:
    return event_text(idempotency_key=json.dumps(key), event_data=f'{{"amount":{amount}}}')


class Sample(msgspec.Struct, frozen=True):
    """An item as it is sent; `code` where it cannot be accepted whatever the others are."""

    raw: bytes
    key: str = ""
    amount: float = 0
    code: str | None = None


bad_samples = st.sampled_from(
    [
        Sample(SURROGATE, code="invalid_event"),
        Sample(b"7", code="invalid_event"),
        Sample(b'{"a":"\xff"}', code="invalid_event"),
        Sample(event_text(foo="1"), code="invalid_event"),
        Sample(event_text(program_id='"nobody"'), code="invalid_program_id"),
        Sample(event_text(program_id=json.dumps(OTHER_PROGRAM)), code="invalid_program_id"),
        Sample(event_text(event_data=json.dumps({"a": "x" * 70_000})), code="event_too_large"),
        Sample(event_text(event_data="[" * 4_000 + "]" * 4_000), code="invalid_event"),
    ]
)
good_samples = st.builds(
    lambda key, amount: Sample(spelled(key, amount), key, float(amount)),
    st.sampled_from(["a", "b", "c", "d"]),
    st.sampled_from(["1", "1.0", "10e-1", "2", "2.50", "25e-1"]),
)


@given(st.lists(good_samples | bad_samples, min_size=1, max_size=30))
def test_any_mix_is_answered_item_by_item_in_order(samples: list[Sample]) -> None:
    items = read(*[sample.raw for sample in samples], may_use=lambda packed: packed != uuid.UUID(OTHER_PROGRAM).bytes)
    answer = answered(items)
    first_amounts: dict[str, float] = {}
    expected: list[str | None] = []
    for sample in samples:
        if sample.code is None and first_amounts.setdefault(sample.key, sample.amount) != sample.amount:
            expected.append("idempotency_conflict")
        else:
            expected.append(sample.code)
    assert [getattr(item, "code", None) for item in answer.results] == expected
    assert [item.index for item in answer.results] == list(range(len(samples)))
    assert answer.total == len(samples) == answer.success_count + answer.error_count
    assert answer.error_count == sum(isinstance(item, RefusedItem) for item in answer.results)


def test_the_first_of_two_payloads_wins_and_both_answers_have_its_id() -> None:
    answer = answered(read(spelled("k", "1"), spelled("k", "2"), spelled("k", "1.0")))
    won, lost, again = answer.results
    event_id = str(uuid.uuid5(uuid.UUID(PROGRAM), "k"))
    assert isinstance(won, AcceptedItem)
    assert isinstance(again, AcceptedItem)
    assert isinstance(lost, RefusedItem)
    assert won.event == again.event
    assert (won.event.id, won.event.status) == (event_id, "PENDING")
    assert (lost.code, lost.retryable, lost.error) == (
        "idempotency_conflict",
        False,
        "the idempotency_key was used with a different payload",
    )
    assert lost.event == {
        "id": event_id,
        "idempotency_key": "k",
        "program_id": PROGRAM,
        "event_timestamp": "2024-01-15T10:30:00Z",
        "external_id": "user-1",
    }


def test_an_owner_from_before_refuses_both_or_lends_its_status() -> None:
    items = read(spelled("k", "1"), spelled("k", "2"))
    first, second = (item for item in items if isinstance(item, Event))
    beaten = answered(items, {first.id: Owner(b"\0" * 16, "COMPLETED")})
    assert [getattr(item, "code", None) for item in beaten.results] == ["idempotency_conflict"] * 2
    later = answered(items, {first.id: Owner(second.fingerprint, "FAILED")})
    assert [getattr(item, "code", None) for item in later.results] == ["idempotency_conflict", None]
    assert isinstance(later.results[1], AcceptedItem)
    assert later.results[1].event.status == "FAILED"


def test_keys_of_two_programs_are_two_keys() -> None:
    other = event_text(program_id=json.dumps(OTHER_PROGRAM), event_data='{"b":2}')
    items = read(event_text(), other)
    assert len(ingest.first_of_each(items)) == 2
    assert answered(items).success_count == 2


@given(st.lists(good_samples | bad_samples, min_size=1, max_size=10), st.sets(st.integers(0, 9)))
def test_what_kafka_did_not_take_is_to_be_sent_again(samples: list[Sample], lost: set[int]) -> None:
    items = read(*[sample.raw for sample in samples])
    after = ingest.refuse_lost(items, lost)
    for index, (before, now) in enumerate(zip(items, after, strict=True)):
        if index in lost and isinstance(before, Event):
            assert isinstance(now, Refusal)
            assert (now.code, now.code.retryable) == (UNAVAILABLE, True)
            assert now.ids["idempotency_key"] == before.idempotency_key
        else:
            assert now is before


def test_another_keys_program_looks_like_no_program() -> None:
    for raw in (event_text(), event_text(program_id='"x"')):
        item = ingest.read_item(READER, raw, lambda _: False)
        assert isinstance(item, Refusal)
        assert (item.code, item.message, item.field) == (INVALID_PROGRAM_ID, "invalid program_id", "program_id")


def test_answers_to_refused_items_tell_the_ids_they_can() -> None:
    raw = event_text(foo="1", participant_id="5")
    (item,) = answered(read(raw)).results
    assert isinstance(item, RefusedItem)
    assert item.event == {
        "idempotency_key": "order-1",
        "program_id": PROGRAM,
        "event_timestamp": "2024-01-15T10:30:00Z",
        "external_id": "user-1",
    }
    assert msgspec.to_builtins(item) == {
        "index": 0,
        "status": "error",
        "error": item.error,
        "code": "invalid_event",
        "retryable": False,
        "event": item.event,
    }


@pytest.mark.parametrize("bad", [b"NaN", b"{]", b"{'a':1}", b'{"a":1,}', b"01", b'{"a":"\n"}'])
def test_an_item_that_is_no_json_spoils_the_body(bad: bytes) -> None:
    """A body with such an item is not JSON: there is no telling what the sender meant by the rest."""
    with pytest.raises(NotJsonError):
        read(event_text(), bad, event_text())


def test_no_batch_is_no_batch() -> None:
    with pytest.raises(BadBatchError):
        read(*[event_text()] * 101)


def test_an_accepted_event_is_answered_in_its_canonical_form() -> None:
    raw = event_text(
        program_id=json.dumps(PROGRAM.upper()),
        event_timestamp='"2024-01-15T11:30:00.500+01:00"',
        participant_id=f'"{str(uuid.UUID(int=0xAB)).upper()}"',
    )
    event = READER.read(raw)
    assert msgspec.to_builtins(ingest.answer_event(event, "COMPLETED")) == {
        "id": str(uuid.uuid5(uuid.UUID(PROGRAM), "order-1")),
        "idempotency_key": "order-1",
        "program_id": PROGRAM,
        "participant_id": str(uuid.UUID(int=0xAB)),
        "external_id": "user-1",
        "event_timestamp": "2024-01-15T10:30:00.5Z",
        "status": "COMPLETED",
    }
