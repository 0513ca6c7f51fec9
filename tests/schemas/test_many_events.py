"""Events read many at a time: each as it is read alone, whatever company it is in."""

import random
import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import exact
from schemas.event import Event, InvalidEventError
from schemas.reader import EventReader
from tests.schemas.events import PROGRAM, event_text
from tests.schemas.spellings import Pairs, hostile_objects, spell

READER = EventReader(65_536)
rngs = st.randoms(use_true_random=False)


def read_or_refused(raw: bytes) -> Event | tuple[object, ...]:
    try:
        return EventReader(65_536).read(raw)
    except InvalidEventError as error:
        return error.code, error.field, error.message


def many_read(raws: list[bytes], reader: EventReader | None = None) -> list[Event | tuple[object, ...]]:
    return [
        one if isinstance(one, Event) else (one.code, one.field, one.message)
        for one in (reader or READER).read_many(raws)
    ]


@settings(max_examples=100)
@given(st.lists(st.tuples(hostile_objects, st.booleans()), min_size=1, max_size=4), rngs)
def test_many_are_read_as_one_by_one(samples: list[tuple[Pairs, bool]], rng: random.Random) -> None:
    texts = []
    for value, canonical in samples:
        text = event_text(event_data=spell(value, rng, shuffle=True))
        alone = read_or_refused(text)
        texts.append(alone.record if canonical and isinstance(alone, Event) else text)
    assert many_read(texts) == [read_or_refused(text) for text in texts]


LOOKS_CANONICAL = READER.read(event_text()).record
UP_TO_DATA = LOOKS_CANONICAL[: LOOKS_CANONICAL.index(b'"event_data":')]


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(LOOKS_CANONICAL, id="canonical"),
        pytest.param(LOOKS_CANONICAL + b"\n", id="a line break behind it"),
        pytest.param(LOOKS_CANONICAL.replace(PROGRAM.encode(), PROGRAM.upper().encode()), id="a program in capitals"),
        pytest.param(re.sub(rb'("event_timestamp":"[^"]*?)Z"', rb'\1.0Z"', LOOKS_CANONICAL), id="a longer instant"),
        pytest.param(re.sub(rb'"event_timestamp":"[^"]*"', b'"event_timestamp":"x"', LOOKS_CANONICAL), id="no instant"),
        pytest.param(re.sub(rb'"external_id":"[^"]*",', b"", LOOKS_CANONICAL), id="nobody"),
        pytest.param(re.sub(rb'"program_id":"[^"]*"', b'"program_id":"x"', LOOKS_CANONICAL), id="no program"),
        *(
            pytest.param(
                LOOKS_CANONICAL[: LOOKS_CANONICAL.index(b'"event_data":')] + b'"event_data":%s}' % data, id=name
            )
            for name, data in {
                "a NUL": b'{"a":"\\u0000"}',
                "too deep": b'{"a":%s%s}' % (b"[" * 100, b"]" * 100),
                "too large": b'{"a":"%s"}' % (b"x" * 66_000),
                "a name given twice": b'{"a":1,"a":1}',
                "another spelling of a number": b'{"a":1.50}',
                "members in another order": b'{"b":1,"a":1}',
            }.items()
        ),
        pytest.param(b"", id="nothing"),
        pytest.param(b"{}", id="no member"),
        pytest.param(LOOKS_CANONICAL.replace(b"user", b"\xff"), id="no UTF-8"),
    ],
)
@pytest.mark.parametrize(
    "last", [pytest.param(LOOKS_CANONICAL, id="canonical"), pytest.param(event_text(event_data='{"a": 1.0}'), id="not")]
)
def test_among_others_each_is_read_as_alone(raw: bytes, last: bytes) -> None:
    some = [LOOKS_CANONICAL, raw, last]
    assert many_read(some) == [read_or_refused(one) for one in some]


def test_digits_count_by_the_event_however_many_are_read() -> None:
    long = event_text(event_data=f'{{"a":[{",".join(["1e3900"] * 12)}]}}')
    assert many_read([long] * 3) == [read_or_refused(long)] * 3
    assert isinstance(read_or_refused(long), Event)


def test_a_number_met_before_is_counted_again() -> None:
    numbers = exact.NumberReader(digits_max=10_000)
    assert numbers.hook("1e1000") == 10**1000
    assert numbers.hook("1.50") == numbers.hook("1.5") == Decimal("1.5")
    numbers.hook("1e1000")
    with pytest.raises(ValueError, match="too many long numbers"):
        numbers.hook("1e1000")
    numbers.restart()
    assert numbers.hook("1e1000") == 10**1000
