"""The compiled reader: it reads what is plain, as the careful one does, and nothing that is bad."""

import random
import re
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import _scan, reader
from schemas.careful import CarefulReader
from schemas.event import Event, InvalidEventError
from schemas.identity import PROGRAMS, id_hash
from schemas.reader import IS_COMPILED, EventReader
from tests.schemas.events import PROGRAM, event_text
from tests.schemas.spellings import Pairs, good_strings, hostile_objects, objects, once, spell

DATA_BYTES_MAX = 65_536
SCAN = _scan.Reader(Event, PROGRAMS, id_hash, sha256, DATA_BYTES_MAX)
CAREFUL = CarefulReader(DATA_BYTES_MAX)
DEPTH_MAX = 32
MEMBERS_MAX = 1_024
DAMAGE = [b"", b"\0", b'"', b"\\", b"}", b",", b"0", b"\xff", b"\xed\xa0"]

rngs = st.randoms(use_true_random=False)
timestamps = st.sampled_from(
    [
        "2024-01-15T10:30:00Z",
        "2024-02-29T23:59:59.120Z",
        "2023-02-29T10:30:00Z",
        "2024-01-15T10:30:00.000+00:00",
        "2024-01-15T12:30:00+02:00",
        "2024-01-15T24:00:00Z",
        "0000-01-15T10:30:00Z",
        "2024-01-15t10:30:00z",
    ]
)
fields = st.fixed_dictionaries(
    {"event_timestamp": timestamps.map('"{}"'.format)},
    optional={
        "participant_id": st.sampled_from(["null", f'"{PROGRAM.upper()}"', '"no"', f'"{PROGRAM.replace("-", "")}"']),
        "recipient_external_id": st.sampled_from(["null", '""', '"\\u00e9"', '"' + "é" * 255 + '"', '"a\\"b"']),
        "recipient_id": st.sampled_from(["null", f'"{PROGRAM}"', "1"]),
        "external_id": st.sampled_from(["null", '"x"']),
    },
)
plain_numbers = st.integers(-(10**17), 10**17) | st.decimals(-(10**6), 10**6, places=4).map(lambda n: n or 0)
plain_strings = good_strings.filter(lambda text: not re.search(r'["\\\x00-\x1f]', text))  # names with escapes are left
plain_objects = objects(plain_strings, plain_numbers).map(once)


def careful(raw: bytes) -> Event | None:
    try:
        return CAREFUL.read(raw)
    except InvalidEventError:
        return None


def plain_text(value: Pairs, rng: random.Random) -> str:
    """As `spell`, but without exponents: those are left to the careful reader."""
    return spell(value, rng, shuffle=True, exponents=False)


def test_it_is_there() -> None:
    assert IS_COMPILED, "a C compiler and Python's headers build it"


@settings(max_examples=100)
@given(hostile_objects, fields, rngs)
def test_what_it_reads_is_what_the_careful_reader_reads(
    value: Pairs, given_fields: dict[str, str], rng: random.Random
) -> None:
    raw = event_text(event_data=spell(value, rng, shuffle=True), **given_fields)
    assert SCAN.read(raw) in {None, careful(raw)}


@settings(max_examples=100)
@given(plain_objects, rngs)
def test_it_reads_what_is_plain(value: Pairs, rng: random.Random) -> None:
    raw = event_text(event_data=plain_text(value, rng))
    event = careful(raw)
    assert event is not None
    assert (SCAN.read(raw), SCAN.read(event.record)) == (event, event)


@settings(max_examples=150)
@given(st.lists(plain_objects, min_size=1, max_size=3), rngs, st.integers(1, 3))
def test_no_damage_is_read(values: list[Pairs], rng: random.Random, times: int) -> None:
    """Single bytes changed, lost, doubled or put in somewhere: the careful reader is asked what that is."""
    for value in values:
        raw = bytearray(event_text(event_data=plain_text(value, rng)))
        for _ in range(times):
            at = rng.randrange(len(raw))
            raw[at : at + rng.randrange(2)] = rng.choice(
                [b"", b"\0", b'"', b"\\", b"}", b",", b"0", b"\xff", b"\xed\xa0"]
            )
        assert SCAN.read(bytes(raw)) in {None, careful(bytes(raw))}, bytes(raw)


@settings(max_examples=100)
@given(st.lists(st.tuples(hostile_objects | plain_objects, fields), min_size=1, max_size=3), rngs)
def test_a_batch_is_its_events(samples: list[tuple[Pairs, dict[str, str]]], rng: random.Random) -> None:
    texts = [event_text(event_data=plain_text(value, rng), **given_fields) for value, given_fields in samples]
    alone = [SCAN.read(text) for text in texts]
    assert SCAN.read_batch(b'{"events":[%s]}' % b" , ".join(texts)) == (None if None in alone else alone)
    assert SCAN.read_many(texts) == alone


@pytest.mark.parametrize(
    "number",
    [
        *("0", "-1", "1.5", "1.50", "400.00", "-12.0", "0.000001", "0.0000012", "0.0000001", "-0", "-0.0", "-0.5"),
        *("01", "1.", ".5", "-", "+1", "1e2", "1E2", "1.5e1", "999999999999999999", "9999999999999999999", "NaN"),
        *("12345678901234.1234", "12345678901234.12345", "100000000000000000000", "0.00", "0x1", "1 2"),
    ],
)
def test_numbers(number: str) -> None:
    raw = event_text(event_data=f'{{"a":{number}}}')
    assert SCAN.read(raw) in {None, careful(raw)}
    assert (
        SCAN.read(raw) is not None
        or "e" in number.lower()
        or number in {"-0", "-0.0"}
        or not careful(raw)
        or (len(number) > 19 or number.startswith("0.000000"))
    )


def test_what_is_no_utf_8() -> None:
    tails = ["80", "bf", "8080", "9fbf", "a080", "bfbf", "808080", "8fbfbf", "908080", "bfbfbf", "c080"]
    for lead in range(0x80, 0x100):
        for tail in (b"", *map(bytes.fromhex, tails)):
            raw = event_text(event_data='{"a":"~"}').replace(b"~", bytes([lead]) + tail)
            assert SCAN.read(raw) == careful(raw), raw


@pytest.mark.parametrize(
    ("string", "is_read"),
    [
        *((f"\\{letter}", True) for letter in 'bfnrt/"\\'),
        *((f"\\u{code:04x}", True) for code in (*range(1, 0x22), 0x3A, 0x5C, 0x7F, 0x80, 0x7FF, 0x800, 0xFFFF)),
        ("\\uD83D\\uDE00", True),
        ("\\u00E9", True),
        *(
            (text, False)
            for text in ("\\u0000", "\\ud83d", "\\ud83d\\u0041", "\\ude00", "\\u12g4", "\\u12", "\\x", "\n", "\x1f")
        ),
    ],
)
def test_escapes(string: str, is_read: bool) -> None:  # noqa: FBT001 - what is expected
    raw = event_text(event_data=f'{{"a":"x{string}y"}}')
    assert SCAN.read(raw) == (careful(raw) if is_read else None)
    assert not is_read or careful(raw)


@pytest.mark.parametrize(
    ("text", "is_read"),
    [
        ("2024-01-15T10:30:00Z", True),
        ("2024-01-15T10:30:00.000Z", True),
        ("2024-01-15T10:30:00.120000Z", True),
        ("2024-01-15T10:30:00.123456+00:00", True),
        ("2024-02-29T00:00:00Z", True),
        ("2000-02-29T00:00:00Z", True),
        ("1900-02-29T00:00:00Z", False),
        ("2024-04-31T00:00:00Z", False),
        ("2024-13-01T00:00:00Z", False),
        ("2024-00-01T00:00:00Z", False),
        ("2024-01-00T00:00:00Z", False),
        ("0000-01-01T00:00:00Z", False),
        ("2024-01-15T24:00:00Z", False),
        ("2024-01-15T23:60:00Z", False),
        ("2024-01-15T23:59:60Z", False),
        ("2024-01-15T10:30:00.1234567Z", False),
        ("2024-01-15T10:30:00.Z", False),
        ("2024-01-15T10:30:00.123", False),
        ("2024-01-15T10:30:00", False),
        ("2024-01-15T10:30:00ZZ", False),
        ("2024-01-15T10:30:00+01:00", False),
        ("2024-01-15 10:30:00Z", False),
        ("", False),
    ],
)
def test_timestamps(text: str, is_read: bool) -> None:  # noqa: FBT001 - what is expected
    raw = event_text(event_timestamp=f'"{text}"')
    assert SCAN.read(raw) == (careful(raw) if is_read else None)
    assert not is_read or careful(raw)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_up_to_its_own_limit(opening: str) -> None:
    def nested(depth: int) -> bytes:
        closing = "]" if opening == "[" else "}"
        return event_text(event_data=f'{{"a":{opening * depth}1{closing * depth}}}')

    assert SCAN.read(nested(DEPTH_MAX - 1)) == careful(nested(DEPTH_MAX - 1))
    assert SCAN.read(nested(DEPTH_MAX)) is None
    assert SCAN.read(nested(100_000)) is None


def test_members_up_to_its_own_limit() -> None:
    names = [f'"{number:04}":{number}' for number in reversed(range(MEMBERS_MAX + 1))]
    few, many = (event_text(event_data="{" + ",".join(some) + "}") for some in (names[1:], names))
    assert SCAN.read(few) == careful(few)
    assert SCAN.read(many) is None


@pytest.mark.parametrize(
    "data", ['{"b":1,"a":2,"b":1}', '{"a":1,"a":1}', '{"x":{"b":[],"a":{},"b":0}}', '{"a":1,}', "[]"]
)
def test_names_given_twice_and_other_faults_are_left(data: str) -> None:
    assert SCAN.read(event_text(event_data=data)) is None


@pytest.mark.parametrize("field", ["program_id", "idempotency_key", "event_timestamp", "event_data"])
def test_a_required_field_that_is_missing_or_null_is_left(field: str) -> None:
    assert SCAN.read(event_text(**{field: None})) is None
    assert SCAN.read(event_text(**{field: "null"})) is None


@pytest.mark.parametrize("field", ["program_id", "external_id", "event_data"])
def test_a_field_given_twice_is_left(field: str) -> None:
    text = event_text()
    again = text[text.index(b'"%s"' % field.encode()) : -1]
    assert SCAN.read(text[:-1] + b"," + again + b"}") is None


@pytest.mark.parametrize("rest", [b"x", b"}", b"\0", b"\0\0", b",", b"{}"])
def test_what_stands_behind_an_event_is_not_passed_over(rest: bytes) -> None:
    assert SCAN.read(event_text() + b" \n") == careful(event_text())
    assert SCAN.read(event_text() + rest) is None
    assert SCAN.read_batch(b'{"events":[%s]}' % event_text() + rest) is None


@pytest.mark.parametrize("field", ["program_id", "participant_id", "recipient_id"])
def test_uuids_are_read_in_any_case(field: str) -> None:
    capitals, small, short, none = (
        event_text(**{field: f'"{text}"'})
        for text in (PROGRAM.upper(), PROGRAM, PROGRAM.replace("-", ""), PROGRAM.replace("e", "g"))
    )
    assert SCAN.read(capitals) == SCAN.read(small) == careful(capitals)
    assert careful(capitals)
    assert SCAN.read(short) is None
    assert SCAN.read(none) is None


def test_names_are_counted_in_characters() -> None:
    for field in ("idempotency_key", "external_id", "recipient_external_id"):
        longest, longer, none = (event_text(**{field: f'"{text}"'}) for text in ("😀" * 255, "é" * 256, ""))
        assert SCAN.read(longest) == careful(longest)
        assert careful(longest)
        assert SCAN.read(longer) is None
        assert SCAN.read(none) is None


def test_data_up_to_the_largest() -> None:
    fits, exceeds = (event_text(event_data='{"a":"' + "x" * size + '"}') for size in (65_528, 65_529))
    assert SCAN.read(fits) == careful(fits)
    assert careful(fits)
    assert SCAN.read(exceeds) is None


def test_batches_of_up_to_a_hundred() -> None:
    texts = [event_text(idempotency_key=f'"{number}"') for number in range(101)]
    hundred = SCAN.read_batch(b'{"events":[%s]}' % b",".join(texts[:100]))
    assert hundred == [careful(text) for text in texts[:100]]
    assert SCAN.read_batch(b'{"events":[%s]}' % b",".join(texts)) is None
    assert SCAN.read_batch(b'{"events":[]}') is None


def test_what_is_no_bytes_is_left() -> None:
    assert SCAN.read(bytearray(event_text())) is None  # type: ignore[arg-type]
    assert SCAN.read_many([None]) == [None]  # type: ignore[list-item]


def test_a_record_in_canonical_form_is_kept_as_it_is() -> None:
    record = event_text()
    event = SCAN.read(record)
    assert event is not None
    assert event.record is record


def test_an_installation_without_the_compiled_part_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = EventReader(65_536)
    monkeypatch.setattr(reader, "IS_COMPILED", False)
    plain = EventReader(65_536)
    texts = [event_text(idempotency_key=f'"{number}"') for number in range(3)]
    batch = b'{"events":[%s]}' % b",".join(texts)
    assert plain.read(texts[0]) == compiled.read(texts[0])
    assert plain.read_batch(batch) == compiled.read_batch(batch)
    assert plain.read_many(texts) == compiled.read_many(texts)
    mixed = [texts[0], b"x", texts[1]]
    for read in (plain.read_many(mixed), compiled.read_many(mixed)):
        assert (read[0], read[2]) == (plain.read(texts[0]), plain.read(texts[1]))
        assert isinstance(read[1], InvalidEventError)
