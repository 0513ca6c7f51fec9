"""A batch's body taken apart: whatever one event is made of, the others come out whole, and in bounded time."""

import json
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import batches
from gateway.batches import BadBatchError, NotJsonError, split_batch
from schemas.event import InvalidEventError
from schemas.reader import EventReader
from tests.schemas.events import event_text
from tests.schemas.spellings import good_objects, hostile_objects, spell
from tests.timing import nothing_else_to_collect

BODY_BYTES_MAX = 8 * 1024 * 1024
SPLIT_S_MAX = 9.0  # 3 on a fast machine: others, and slow hours of one, take up to three times as long
GROWTH_MAX = 24  # from an eighth to the whole: 8 where time grows with size, 64 where it grows with the square

GOOD = b'{"a":1}'
SURROGATE = b'{"a":"\\ud800"}'

spaces = st.sampled_from(["", " ", "\n\t", "\r\n  "])
texts = st.builds(spell, hostile_objects | good_objects, st.randoms(use_true_random=False))


def batch_of(*items: bytes) -> bytes:
    return b'{"events":[' + b",".join(items) + b"]}"


def by_brackets(body: bytes) -> list[bytes]:
    return list(batches._split_by_brackets(body))  # noqa: SLF001 - the way for bodies that the decoder gives up on


@given(st.lists(texts, min_size=1, max_size=5), spaces)
def test_each_item_comes_out_as_it_stands(items: list[str], space: str) -> None:
    joined = f"{space},{space}".join(items)
    body = f'{space}{{{space}"events"{space}:{space}[{space}{joined}{space}]{space}}}{space}'.encode()
    expected = [item.encode() for item in items]
    assert split_batch(body) == expected
    assert by_brackets(body) == expected


scalars = st.sampled_from(
    ['"a,b"', '"\\""', '"\\\\"', '"[{"', '"]}"', "1", "-1.5e3", "null", "true", "[]", "{}", "[[]]"]
)


@given(
    st.lists(st.lists(scalars, max_size=6).map(lambda inner: f"[{','.join(inner)}]") | scalars, min_size=1, max_size=9)
)
def test_brackets_and_quotes_within_strings_are_no_brackets(items: list[str]) -> None:
    body = batch_of(*map(str.encode, items))
    assert [item.encode() for item in items] == by_brackets(body) == split_batch(body)


@given(st.integers(0, 6), st.randoms(use_true_random=False))
def test_any_nesting_is_followed(depth: int, rng: random.Random) -> None:
    def build(level: int) -> object:
        if level == 0:
            return rng.choice([0, "", "]", "{"])
        return [build(level - 1) for _ in range(rng.randrange(3))] if rng.random() < 0.5 else {"[": build(level - 1)}

    items = [json.dumps(build(rng.randrange(depth + 1))).encode() for _ in range(5)]
    assert by_brackets(batch_of(*items)) == items


HOSTILE_ITEMS = {
    "a lone surrogate": SURROGATE,
    "a nest of lists": b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "a nest of objects": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "a mixed nest": b'[{"a":' * 20_000 + b"1" + b"}]" * 20_000,
    "a nest with strings": b'{"]":"\\"[",",":' * 3_000 + b"1" + b"}" * 3_000,
    "invalid UTF-8": b'{"a":"\xff"}',
    "brackets in a string": b'{"a":"}]}],\\"[{"}',
    "escaped quotes": b'{"a\\\\":"\\\\\\"","b":["\\\\"]}',
    "a NUL": b'{"a":"\\u0000"}',
    "a long number": b'{"a":' + b"9" * 100_000 + b"}",
    "no object": b"17",
    "a string": b'"a\\",[{"',
}


@pytest.mark.parametrize("beside", [SURROGATE, GOOD], ids=["by brackets", "by decoder"])
@pytest.mark.parametrize("name", HOSTILE_ITEMS)
def test_a_hostile_item_spoils_no_other(name: str, beside: bytes) -> None:
    items = [GOOD, HOSTILE_ITEMS[name], b'{"b":[1,{"c":"d"}]}', beside, GOOD]
    assert split_batch(batch_of(*items)) == items


@pytest.mark.parametrize("name", HOSTILE_ITEMS)
def test_hostile_data_makes_one_refusal(name: str) -> None:
    reader = EventReader(65_536)
    items = [event_text(), event_text(event_data=None, foo=HOSTILE_ITEMS[name].decode("latin-1")), event_text()]
    outcomes = []
    for raw in split_batch(batch_of(*items)):
        try:
            outcomes.append(reader.read(raw).idempotency_key)
        except InvalidEventError as error:
            outcomes.append(error.code.code)
    assert outcomes == ["order-1", "invalid_event", "order-1"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"nonsense",
        b'{"events":[',
        b'{"events":[{}',
        b'{"events":[{}]',
        b'{"events":[{}]}}',
        b'{"events":[{}]}x',
        b'{"events":[{}]}{}',
        b'{"events":[{}}',
        b'{"events":["]}',
        b'{"events":[{}],}',
        b'{"events":[' + SURROGATE,
        b'{"events":[' + SURROGATE + b"]",
        b'{"events":[' + SURROGATE + b"]}]",
        b'{"events":[' + SURROGATE + b"}",
        b'{"events":[' + SURROGATE + b'],"x":1}',
        b'{"events":[' + SURROGATE + b',"]}',
        b'{"events":[' + SURROGATE + b",]x]}",
        b'\xef\xbb\xbf{"events":[{}]}',
        '{"events":[{}]}'.encode("utf-16"),
    ],
)
def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(NotJsonError):
        split_batch(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "Object missing required field events"),
        (b"[]", "Expected object, got array"),
        (b"null", "Expected object, got null"),
        (b'"events"', "Expected object, got str"),
        (b'{"events":{}}', "Expected array, got object"),
        (b'{"events":null}', "Expected array, got null"),
        (b'{"events":[{}],"more":1}', "unknown field more"),
        (b'{"x":1,"events":[' + SURROGATE + b"]}", "unknown field x"),
        (b"[" * 100_000, "Expected object, got array"),
        (b'{"events":[]}', "this one has none"),
        (b'{"events":[ ]}', "this one has none"),
        (batch_of(*[GOOD] * 101), "this one has more"),
        (batch_of(*[SURROGATE] * 101), "this one has more"),
        (b'{"events":[{"a":1}],"events":[{}]}', "events is given twice"),
        (b'{"events":[{}],"events":[{"a":1}]}', "events is given twice"),
    ],
)
def test_what_is_no_batch(body: bytes, message: str) -> None:
    with pytest.raises(BadBatchError) as caught:
        split_batch(body)
    assert str(caught.value).startswith('the body must be {"events": [...]} with 1 to 100 events')
    assert message in str(caught.value)


def test_a_hundred_events_are_a_batch() -> None:
    assert len(split_batch(batch_of(*[GOOD] * 100))) == 100
    assert len(split_batch(batch_of(*[GOOD] * 99, SURROGATE))) == 100


def _filled(unit: bytes) -> bytes:
    return unit * (BODY_BYTES_MAX // len(unit))


PATHOLOGICAL = {
    "an unclosed string of escaped quotes": b'"' + _filled(b'\\"'),
    "an unclosed string": b'"' + _filled(b"a"),
    "backslashes": b'"' + _filled(b"\\"),
    "quotes": _filled(b'"'),
    "commas": _filled(b","),
    "small lists": b"[" + _filled(b"[],") + b"0]]}",
    "small nests": b"[" + _filled(b"[[[{}]]],") + b"0]]}",
    "deeper small nests": b"[" + _filled(b"[[[[[0]]]]],") + b"0]]}",
    "small objects": b"[" + _filled(b'{"":0},') + b"0]]}",
    "strings": b"[" + _filled(b'"",') + b"0]]}",
    "opening brackets": _filled(b"["),
    "slow opening brackets": _filled(b"[0,"),
    "opening brackets of both kinds": _filled(b'{"":['),
    "one nest": _filled(b"[")[: BODY_BYTES_MAX // 2] + _filled(b"]")[: BODY_BYTES_MAX // 2] + b"]}",
    "spaces": _filled(b" "),
    "events": _filled(b"{},") + b"{}]}",
}


def _split(body: bytes) -> tuple[float, int | type[Exception]]:
    """What a split takes of CPU time, and what comes of it."""
    outcome: int | type[Exception]
    with nothing_else_to_collect():
        begun_at = time.process_time()
        try:
            outcome = len(split_batch(body))
        except (NotJsonError, BadBatchError) as error:
            outcome = type(error)
        return time.process_time() - begun_at, outcome


@pytest.mark.parametrize("name", PATHOLOGICAL)
def test_the_largest_body_takes_bounded_time(name: str) -> None:
    body = b'{"events":[' + SURROGATE + b"," + PATHOLOGICAL[name]
    eighth_s, _ = _split(body[: len(body) // 8])
    split_s, outcome = _split(body)
    assert split_s < SPLIT_S_MAX
    assert split_s < GROWTH_MAX * max(eighth_s, 0.02)
    if body.endswith(b"]}"):
        assert outcome == (BadBatchError if name == "events" else 2)
    else:
        assert outcome in (NotJsonError, BadBatchError)
