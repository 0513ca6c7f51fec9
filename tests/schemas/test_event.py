"""Events: what is read, what is refused and by which name, and that nothing is altered on the way."""

import json
import random
import time
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import exact
from schemas.errors import EVENT_TOO_LARGE, INVALID_EVENT, INVALID_JSON, INVALID_PROGRAM_ID, ErrorCode
from schemas.event import Event, InvalidEventError, readable_ids
from schemas.reader import EventReader
from tests.schemas.events import PROGRAM, event_text
from tests.schemas.spellings import (
    Pairs,
    Spelled,
    faults,
    good_objects,
    good_strings,
    hostile_objects,
    meaning,
    once,
    parse,
    spell,
    values,
)
from tests.timing import nothing_else_to_collect

READER = EventReader(65_536)
rngs = st.randoms(use_true_random=False)


def read(**fields: str | None) -> Event:
    return READER.read(event_text(**fields))


def refused(raw: bytes, reader: EventReader | None = None) -> InvalidEventError:
    with pytest.raises(InvalidEventError) as caught:
        (reader or READER).read(raw)
    return caught.value


@settings(max_examples=200)
@given(hostile_objects, rngs)
def test_any_object_is_kept_exactly_or_refused_by_name(value: Pairs, rng: random.Random) -> None:
    text = spell(value, rng, shuffle=True)
    expected = faults(text)
    if not expected:
        assert meaning(parse(read(event_data=text).data.decode())) == meaning(parse(text))
        return
    error = refused(event_text(event_data=text))
    named = {fault for fault in expected if fault.field[:500] == error.field and fault.kind in error.message}
    assert named, (str(error), expected)
    assert error.code is INVALID_EVENT


@given(good_objects, rngs)
def test_reading_the_record_again_changes_nothing(value: Pairs, rng: random.Random) -> None:
    event = read(event_data=spell(value, rng))
    again = READER.read(event.record)
    assert (again.record, again.id, again.fingerprint) == (event.record, event.id, event.fingerprint)
    assert again == event


@given(good_objects, rngs)
def test_spellings_of_one_value_have_one_fingerprint(value: Pairs, rng: random.Random) -> None:
    first, second = (read(event_data=spell(value, rng, shuffle=True)) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.record == second.record


@settings(max_examples=200)
@given(st.data())
def test_fingerprints_are_equal_exactly_where_the_values_are(data: st.DataObject) -> None:
    numbers = st.sampled_from(["1", "1.0", "10e-1", "1.00001", "0", "-0", "0.0", "-1", "1e1", "10", "1e400", "1e-7"])
    strings = st.sampled_from(["", "1", "a", "A", "é", "e\u0301", "null", "\x7f"])
    pool = values(strings, numbers.map(Spelled)).map(once)
    rng = data.draw(rngs)
    texts = [f'{{"a":{spell(data.draw(pool), rng)}}}' for _ in range(2)]
    first, second = (read(event_data=text) for text in texts)
    same = meaning(parse(texts[0])) == meaning(parse(texts[1]))
    assert (first.fingerprint == second.fingerprint) is same, texts


CHANGES = {
    "program_id": f'"{uuid.UUID(int=1)}"',
    "idempotency_key": '"order-2"',
    "event_timestamp": '"2024-01-15T10:30:00.000001Z"',
    "external_id": '"user-2"',
    "participant_id": f'"{uuid.UUID(int=2)}"',
    "recipient_external_id": '"user-1"',
    "recipient_id": f'"{uuid.UUID(int=2)}"',
    "event_data": '{"amount":1,"x":null}',
}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_counts_for_the_fingerprint(field: str) -> None:
    assert read(**{field: CHANGES[field]}).fingerprint != read().fingerprint


def test_spelling_of_the_other_fields_does_not_count() -> None:
    given_event = read(participant_id=f'"{uuid.UUID(int=0xABC)}"')
    other = read(
        program_id=json.dumps(PROGRAM.upper()),
        idempotency_key='"\\u006frder-1"',
        event_timestamp='"2024-01-15t12:30:00.000+02:00"',
        participant_id=f'"{str(uuid.UUID(int=0xABC)).upper()}"',
        recipient_id="null",
    )
    assert other.record == given_event.record
    assert other.id == given_event.id == uuid.uuid5(uuid.UUID(PROGRAM), "order-1").bytes


REFUSALS: list[tuple[dict[str, str | None], ErrorCode, str, str]] = [
    ({"program_id": None}, INVALID_PROGRAM_ID, "program_id", "must be a UUID"),
    ({"program_id": '"x"'}, INVALID_PROGRAM_ID, "program_id", "must be a UUID"),
    ({"program_id": "5"}, INVALID_PROGRAM_ID, "program_id", "must be a UUID"),
    ({"program_id": '"x"', "idempotency_key": "5"}, INVALID_PROGRAM_ID, "program_id", "must be a UUID"),
    ({"idempotency_key": None}, INVALID_EVENT, "idempotency_key", "is required"),
    ({"idempotency_key": '""'}, INVALID_EVENT, "idempotency_key", "Expected str of length >= 1"),
    ({"idempotency_key": f'"{"x" * 256}"'}, INVALID_EVENT, "idempotency_key", "Expected str of length <= 255"),
    ({"idempotency_key": "7"}, INVALID_EVENT, "idempotency_key", "Expected str, got int"),
    ({"idempotency_key": '"a\\u0000"'}, INVALID_EVENT, "idempotency_key", "contains a NUL character"),
    ({"external_id": '"\\udfff"'}, INVALID_EVENT, "external_id", "contains a lone surrogate"),
    ({"external_id": None}, INVALID_EVENT, "external_id", "is required where there is no participant_id"),
    ({"external_id": "null"}, INVALID_EVENT, "external_id", "is required where there is no participant_id"),
    ({"external_id": "[" * 3000 + "]" * 3000}, INVALID_EVENT, "external_id", "is nested deeper"),
    ({"participant_id": '"x"'}, INVALID_EVENT, "participant_id", "Invalid UUID"),
    ({"recipient_id": "1"}, INVALID_EVENT, "recipient_id", "Expected uuid | null, got int"),
    ({"event_timestamp": '"yesterday"'}, INVALID_EVENT, "event_timestamp", "must be RFC 3339"),
    ({"event_timestamp": "1705314600"}, INVALID_EVENT, "event_timestamp", "Expected str, got int"),
    ({"event_data": None}, INVALID_EVENT, "event_data", "is required"),
    ({"event_data": "[]"}, INVALID_EVENT, "event_data", "Expected object, got array"),
    ({"event_data": '{"a":1,"\\u0061":1}'}, INVALID_EVENT, "event_data.a", "is given twice"),
    ({"event_data": '{"a":1,"a":"\\u003a"}'}, INVALID_EVENT, "event_data.a", "is given twice"),
    ({"event_data": f'{{"a":[{",".join(["1e3999"] * 60)}]}}'}, INVALID_EVENT, "event_data.a[16]", "too many long"),
    ({"foo": "1"}, INVALID_EVENT, "foo", "is not a field of an event"),
    ({"a`b\nc": "1"}, INVALID_EVENT, '["a`b\\nc"]', "is not a field of an event"),
    ({"": "1"}, INVALID_EVENT, '[""]', "is not a field of an event"),
    ({"x" * 100_000: "1"}, INVALID_EVENT, "x" * 500, "is not a field of an event"),
    ({"foo": "[" * 3000 + "]" * 3000}, INVALID_EVENT, "foo", "is nested deeper"),
]


@pytest.mark.parametrize(("fields", "code", "field", "message"), REFUSALS)
def test_refusal_names_the_field(fields: dict[str, str | None], code: ErrorCode, field: str, message: str) -> None:
    error = refused(event_text(**fields))
    assert (error.code, error.field) == (code, field)
    assert error.message.startswith(message) or message in error.message
    assert len(str(error)) < 700
    expected = "invalid program_id" if code is INVALID_PROGRAM_ID else f"{field}: {error.message}"
    assert str(error) == expected


@pytest.mark.parametrize("name", ["program_id", "idempotency_key", "external_id", "event_data"])
def test_a_field_given_twice_is_refused(name: str) -> None:
    raw = event_text()
    text = raw.decode().removesuffix("}")
    member = json.dumps(name) + ":" + json.dumps(json.loads(raw)[name])
    error = refused(f"{text},{member}}}".encode())
    assert (error.code, error.field, error.message) == (INVALID_EVENT, name, "is given twice in one object")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{",
        b"nope",
        b"NaN",
        event_text() + b"x",
        b"\xef\xbb\xbf" + event_text(),
        event_text(event_data="{'a':1}"),
    ],
)
def test_what_is_no_json(raw: bytes) -> None:
    error = refused(raw)
    assert (error.code, error.field, str(error)) == (INVALID_JSON, "", "is not JSON")


def test_what_is_no_utf_8_is_the_events_own_fault() -> None:
    for bad in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80"):
        error = refused(event_text(event_data='{"a":"?"}').replace(b"?", bad))
        assert (error.code, str(error)) == (INVALID_JSON, "event: is not UTF-8")


@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"5", b"null", b"true"])
def test_what_is_no_object(raw: bytes) -> None:
    error = refused(raw)
    assert error.code is INVALID_EVENT
    assert str(error).startswith("Expected object, got ")


def test_longest_names_that_are_kept() -> None:
    event = read(idempotency_key=f'"{"😀" * 255}"', external_id=f'"{"é" * 255}"')
    assert event.idempotency_key == "😀" * 255
    assert event.id == uuid.uuid5(uuid.UUID(PROGRAM), "😀" * 255).bytes


@pytest.mark.parametrize("depth", [98, 99, 100, 300, 950, 5_000])
def test_depth_is_kept_up_to_the_limit(depth: int) -> None:
    text = "[" * depth + "]" * depth
    if depth < 100:  # event_data itself is one level
        assert read(event_data=f'{{"a":{text}}}').data == f'{{"a":{text}}}'.encode()
    else:
        error = refused(event_text(event_data=f'{{"a":{text},"b":[]}}'))
        assert error.field.startswith("event_data")
        assert error.message == "is nested deeper than 100 levels"


def test_size_counts_the_data_as_serialized() -> None:
    reader = EventReader(100)
    data = f'{{"a":"{"x" * 92}"}}'
    spaced = event_text(event_data=data.replace(":", ": " + " " * 300))
    assert reader.read(spaced).data == data.encode()
    error = refused(event_text(event_data=data.replace("x", "xx", 1)), reader)
    assert (error.code, str(error)) == (EVENT_TOO_LARGE, "event_data: is 101 bytes; at most 100 are accepted")
    long_names = f'"{"é" * 255}"'
    assert reader.read(event_text(event_data=data, idempotency_key=long_names, external_id=long_names))


@pytest.mark.parametrize("text", ['{"event_data":{"x":1}}', '{"a":"\\"event_data\\":{"}'])
def test_data_is_found_behind_look_alikes(text: str) -> None:
    key = '"\\"event_data\\":{"'
    event = read(event_data=text, idempotency_key=key, external_id=key)
    assert meaning(parse(event.data.decode())) == meaning(parse(text))
    assert event.data == text.encode()


def test_a_reader_that_refused_reads_the_next_event_afresh() -> None:
    reader = EventReader(65_536)
    long_numbers = f'{{"a":[{",".join(["1e3999"] * 10)}]}}'
    for _ in range(5):
        assert len(reader.read(event_text(event_data=long_numbers)).data) == 6 + 40_000 + 9 + 2


@given(st.lists(good_strings, max_size=4))
def test_names_of_any_kind_survive(names: list[str]) -> None:
    data = json.dumps(dict.fromkeys(names, 1))
    assert json.loads(read(event_data=data).data) == json.loads(data)


def test_many_lines_do_not_take_the_slow_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a plain event was looked at thoroughly")

    monkeypatch.setattr(exact, "find_fault", never)
    lines = [{"sku": f"s{number}", "tags": []} for number in range(300)]
    assert len(json.loads(read(event_data=json.dumps({"lines": lines})).data)["lines"]) == 300


def test_ids_of_a_refused_event_are_those_that_can_be_read() -> None:
    raw = event_text(participant_id="5", external_id=f'"{"x" * 256}"', foo="1")
    assert readable_ids(raw) == {
        "program_id": PROGRAM,
        "idempotency_key": "order-1",
        "event_timestamp": "2024-01-15T10:30:00Z",
    }
    for unreadable in (b"", b"[]", b"{", event_text(external_id='"\\ud800"'), b"\xff", b"[" * 100_000):
        assert readable_ids(unreadable) == {}


@pytest.mark.parametrize(
    ("unit", "fault"),
    [
        ("0,", '"\\u0000"'),
        ("[],", "1e9999"),
        ('"",', '"\\udfff"'),
        ('{"":0},', '{"a":1,"a":1}'),
        ("1.5,", "[[1e9999]]"),
    ],
)
def test_a_fault_at_the_end_of_a_large_event_is_found_in_bounded_time(unit: str, fault: str) -> None:
    """Who holds a key may send 8 MiB of this: it must not stop the gateway for others."""
    count = 1024 * 1024 // len(unit)
    raw = event_text(event_data=f'{{"a":[{unit * count}{fault}]}}', foo="1")
    with nothing_else_to_collect():
        begun_at = time.process_time()
        error = refused(raw)
        took_s = time.process_time() - begun_at
    assert took_s < 2
    assert error.field.startswith(f"event_data.a[{count}]")


def batch_of(texts: list[bytes]) -> bytes:
    return b'{"events": [' + b", ".join(texts) + b"]}"


nulls = st.dictionaries(st.sampled_from(["participant_id", "recipient_external_id", "recipient_id"]), st.just("null"))
timestamps = st.sampled_from(['"2024-01-15T10:30:00Z"', '"2024-01-15T12:30:00.50+02:00"'])


@given(st.lists(st.tuples(good_objects, nulls, timestamps), min_size=1, max_size=4), rngs)
def test_good_events_are_read_together_as_they_are_one_by_one(
    samples: list[tuple[Pairs, dict[str, str], str]], rng: random.Random
) -> None:
    texts = [
        event_text(event_data=spell(value, rng), event_timestamp=timestamp, **given)
        for value, given, timestamp in samples
    ]
    together = READER.read_batch(batch_of(texts))
    if together is None:  # where an escape may hide something, each must be looked at
        assert b"\\u" in b"".join(texts)
    else:
        assert together == [READER.read(text) for text in texts]


@settings(max_examples=60)
@given(st.lists(hostile_objects, min_size=1, max_size=4), rngs)
def test_no_bad_event_hides_in_a_batch(values: list[Pairs], rng: random.Random) -> None:
    data = [spell(value, rng, shuffle=True) for value in values]
    texts = [event_text(event_data=text) for text in data]
    together = READER.read_batch(batch_of(texts))
    if any(map(faults, data)):
        assert together is None
    elif together is not None:
        assert together == [READER.read(text) for text in texts]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"events":{}}',
        batch_of([event_text(event_data='{"a":1,"a":1}'), event_text(participant_id="null")]),
        batch_of([event_text(event_data='{"a":1,"a":"\\u003a"}')]),
        batch_of([event_text()])[:-1] + b',"more":1}',
        batch_of([event_text()])[:-1] + b',"events":[]}',
        batch_of([event_text(participant_id="null")[:-1] + b',"participant_id":null}']),
        batch_of([event_text(), event_text(external_id=None)]),
        batch_of([event_text(event_data=f'{{"a":{"[" * 100}{"]" * 100}}}')]),
        batch_of([event_text(program_id='"x"')]),
        batch_of([event_text(event_timestamp='"x"')]),
        batch_of([event_text(event_data='{"a":"' + "x" * 66_000 + '"}')]),
        batch_of([event_text(event_data='{"a":"\xff"}').replace(b"\xc3\xbf", b"\xff")]),
    ],
)
def test_what_is_no_batch_of_good_events_is_left_to_be_read_one_by_one(body: bytes) -> None:
    assert READER.read_batch(body) is None


@pytest.mark.parametrize("name", ["participant_id", "recipient_external_id", "recipient_id"])
def test_fields_that_are_null_do_not_take_the_slow_look(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a plain event was looked at thoroughly")

    monkeypatch.setattr(exact, "find_fault", never)
    raw = event_text(**{name: "null"}, event_timestamp='"2024-01-15T11:30:00+01:00"')
    assert READER.read(raw) == READER.read(event_text())
    assert READER.read_batch(batch_of([raw, event_text()])) == [READER.read(event_text())] * 2
