"""The compiled part gives the same bytes as the plain one; that Postgres takes them is shown by test_rows.py."""

import json
import random
import uuid
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors import _encode, encoding
from schemas.event import Event
from schemas.reader import EventReader
from tests.schemas.events import event_text
from tests.schemas.spellings import Pairs, good_objects, spell

READER = EventReader(65_536)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60)
uuids = st.uuids().map(str)
instants = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999), timezones=st.just(timezone.utc))  # noqa: DTZ001, UP017 - bounds
offsets = st.integers(0, 2**63 - 1)


@st.composite
def events(draw: st.DrawFn) -> Event:
    fields = {
        "program_id": draw(uuids),
        "idempotency_key": draw(names),
        "event_timestamp": draw(instants).isoformat(),
        "external_id": draw(names),
        "participant_id": draw(st.none() | uuids),
        "recipient_external_id": draw(st.none() | names),
        "recipient_id": draw(st.none() | uuids),
    }
    if fields["participant_id"] is not None and draw(st.booleans()):
        fields["external_id"] = None
    data: Pairs = draw(good_objects)
    texts = {name: None if value is None else json.dumps(value) for name, value in fields.items()}
    return READER.read(event_text(**texts, event_data=spell(data, random.Random(0))))  # noqa: S311 - spelling only


@settings(max_examples=200)
@given(events(), st.integers(0, 2**31 - 1), offsets)
def test_both_ways_give_the_same_bytes(event: Event, partition: int, offset: int) -> None:
    assert _encode.encode(event, partition, offset) == encoding.encode_plainly(event, partition, offset)


@pytest.mark.parametrize(
    "instant",
    [
        "0001-01-01T00:00:00Z",
        "1999-12-31T23:59:59.999999Z",
        "2000-01-01T00:00:00Z",
        "2000-02-29T12:00:00.5Z",
        "2000-03-01T00:00:00Z",
        "2100-02-28T23:59:59Z",
        "9999-12-31T23:59:59.999999Z",
    ],
)
def test_instants(instant: str) -> None:
    event = READER.read(event_text(event_timestamp=f'"{instant}"'))
    assert _encode.encode(event, 1, 2) == encoding.encode_plainly(event, 1, 2)


def test_the_compiled_part_is_used() -> None:
    assert encoding.encode is _encode.encode, "a C compiler and Python's headers build it"


@pytest.mark.parametrize("field", ["id", "fingerprint", "program", "participant_id", "event_timestamp", "record"])
def test_what_is_no_event_is_refused(field: str) -> None:
    event = READER.read(event_text(participant_id=f'"{uuid.uuid4()}"'))
    broken = {name: getattr(event, name) for name in Event.__struct_fields__} | {field: "x"}
    with pytest.raises(TypeError):
        _encode.encode(Event(**broken), 0, 0)
    with pytest.raises(AttributeError):
        _encode.encode(None, 0, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _encode.encode(event, "0", 0)  # type: ignore[arg-type]
